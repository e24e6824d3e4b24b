"""Features that need tensorflow-addons: the optimizers SGDW, RectifiedAdam and Lookahead.

No default setting imports this package. To drop it, delete it with its requirement in
`setup.py`, and the settings `optimizer.name: sgdw`, `radam` and `optimizer.lookahead`.
"""
