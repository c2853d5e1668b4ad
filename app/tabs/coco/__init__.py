"""The COCO tab: browse pictures, see their objects, and score the heatmaps against them."""
