"""The small world: seeded cartoon clips with known truth, and tiny Wan models that are trained on them.

A caption names kinds (the robot, the desert), an action and a camera. It never names looks: colours, pattern,
accessory, colours of the place. Looks are drawn anew for every story, so only memory can carry them from shot
to shot.
"""
