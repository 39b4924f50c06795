"""How right the answers are: true answers beside given ones, figures with their intervals, two ways of asking compared.

Pure but for `fetch`, which reads labels and answers; statsmodels, scipy and scikit-learn do the statistics.
"""
