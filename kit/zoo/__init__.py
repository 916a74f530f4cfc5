"""Baselines of the papers' tables: a file each, which registers its parts and its rows of `kit.methods()` as a user's
own plug-in would. kit loads whatever files lie here and knows none of them: without a file its rows are gone, no more.
"""
