"""The search for a network and a loss, each candidate trained as a short federation.

Space (``space``), strategy (``strategies``, ``sampled``) and evaluation (``evaluate``,
``pruning``) are apart, as in Elsken et al. Neural Architecture Search: A Survey. JMLR 2019.
arXiv:1808.05377.
"""
