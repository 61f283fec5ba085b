"""Flights of 2013 from New York: will a flight arrive 15 minutes late or more?"""
