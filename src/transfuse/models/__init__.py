"""Models: one file = one source of networks, found by its prefix (`timm:resnet50`)."""
