"""Time slices of payments as they might be: a day and a week with their rhythm, numbers, categories, an entity and a score."""

import numpy as np
import pyarrow as pa

from features.durations import HOUR_US
from models.drift.columns import Column
from models.drift.time_slice import Counting, TimeSlice, WatchedRows

COLUMNS = (
    Column("amount", "number", "feature", low=0.0),
    Column("age", "number", "feature"),
    Column("secret", "number", "feature", hidden=True),
    Column("country", "category", "feature"),
    Column("card", "category", "entity"),
    Column("score", "probability", "score"),
    Column("decision", "number", "score"),
)
COUNTRIES = ("AT", "CH", "DE", "FR", "NL")
PRODUCERS = ("app", "shop", "till")


class Payments:
    """Rows by the hour. `alter(numbers, texts, random)` changes an hour's rows: numbers float64[n, 5], texts lists of n."""

    def __init__(self, seed, rows_a_day=1_200):
        self.random = np.random.default_rng(seed)
        self.rows_a_day, self.hour = rows_a_day, 0

    def slice(self, alter=None, rows=None):
        hour, weekend = self.hour % 24, self.hour // 24 % 7 >= 5
        usual = self.rows_a_day / 24 * (0.4 if hour < 6 else 1.2) * (0.8 if weekend else 1.0)
        count = int(self.random.poisson(usual)) if rows is None else rows
        watched = self.rows(count, hour, alter)
        counting = Counting(COLUMNS, self.hour * HOUR_US, HOUR_US)
        counting.add(watched)
        self.hour += 1
        return counting.closed()

    def slices(self, count, alter=None) -> list[TimeSlice]:
        return [self.slice(alter) for _ in range(count)]

    def rows(self, count, hour, alter=None):
        random = self.random
        score = random.beta(1, 8, count)
        numbers = np.column_stack(
            [
                random.lognormal(3.5 - (hour < 6) * 0.5, 1.0, count),
                random.normal(40, 12, count),
                random.exponential(5.0, count),
                score,
                score >= 0.3,
            ]
        )
        numbers[random.random(count) < 0.03, 1] = np.nan
        shares = [0.1, 0.1, 0.5, 0.2, 0.1] if hour >= 6 else [0.2, 0.2, 0.2, 0.2, 0.2]
        countries = random.choice(COUNTRIES, count, p=shares).tolist()
        cards = [f"card-{card}" for card in random.integers(0, 400, count)]
        producers = random.choice(PRODUCERS, count, p=[0.2, 0.3, 0.5]).tolist()
        if alter is not None:
            alter(numbers, [countries, cards, producers], random)
        return WatchedRows(
            np.full(count, self.hour * HOUR_US),
            numbers,
            [pa.array(countries, pa.string()), pa.array(cards, pa.string())],
            {"producer": producers},
            "v1",
        )
