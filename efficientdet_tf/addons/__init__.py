"""What needs tensorflow-addons: the optimizers SGDW and RectifiedAdam, and Lookahead.

Nothing on the default path imports this folder. To drop it, delete it with its requirement in
`setup.py`, and the settings `optimizer.name: sgdw`, `radam` and `optimizer.lookahead`.
"""
