"""How good the answers are: deterministic replays of whole data sets through the real roads, in this process."""
