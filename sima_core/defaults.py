"""What is looked at unless something else is asked for; named once, imported in no time.

Source: arXiv 2206.08898, section 3.3 and figure 2 (layer 12), section 4.1 (224 × 224 pixels).
"""

#: The layer whose norms are shown, counted from 1.
LAYER = 12
#: The shorter side of the network's input, in pixels.
RESOLUTION = 224
#: How much of the picture a heatmap hides, from 0 to 1.
OPACITY = 0.6
