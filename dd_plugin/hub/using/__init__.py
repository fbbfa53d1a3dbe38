"""The uses of a distilled set: train networks and heads on it, and test them.

Below `dataset`, whose methods call these functions with the set as it was read (`StoredSet`).
`choosing` says which network is meant and how it is trained, `backbones` loads frozen ones,
`training` trains, `real_images` fetches what is tested on, `evaluating` and `predicting` test.
"""
