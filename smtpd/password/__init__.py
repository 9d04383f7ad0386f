"""The one-shot process that asks PAM whether a password is right.

process   its opening, one question, one answer       authority   PAM, and what its answers mean
"""
