"""The Explore tab: a photo in, what a model listens to on it."""
