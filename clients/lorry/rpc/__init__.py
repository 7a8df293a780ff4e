"""What both ends of a call share: errors on the wire, channel options, conversions.

Does not know either service's behaviour.
"""
