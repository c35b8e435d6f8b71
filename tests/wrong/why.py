"""Wrong answers to lesson 10: the source that replaces the stub, and the hint it must get."""

DIFFERENCE = """def difference(own, seeds, least=0.0):
    n, m = len(seeds), len(own)
    centre = sum(seeds) / n
    squares = sum((x - centre) ** 2 for x in seeds)
    spread = max(math.sqrt(squares / (n - 1)), least)
    half = students_t.ppf(0.975, n - 1) * spread * math.sqrt(1 / m + 1 / n)
    gap = sum(own) / m - centre
    return gap, gap - half, gap + half
"""

DEAL = """def permutation_p(own, seeds):
    values = [*own, *seeds]

    def apart(chosen):
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        return abs(sum(values[i] for i in chosen) / len(own) - sum(rest) / len(rest))

    ways = list(itertools.combinations(range(len(values)), len(own)))
    seen = apart(tuple(range(len(own))))
    return sum(apart(way) >= seen - 1e-12 for way in ways) / len(ways)
"""

RATE = """def false_rate(differs, n_own, n_seeds, spread, items, draws, seed):
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(draws):
        luck = rng.normal(0, spread, n_own + n_seeds)
        values = luck + rng.normal(0, items, n_own + n_seeds)
        wrong += differs(values[:n_own], values[n_own:])
    return wrong / draws
"""

NEEDED = """def seeds_needed(gap, spread, most=200):
    for n in range(2, most + 1):
        error = spread * math.sqrt(2 / n)
        if abs(gap) >= (students_t.ppf(0.975, 2 * n - 2) + 0.84) * error:
            return n
    return None
"""

HOLM = """def holm(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, before = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        before = max(before, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = before
    return corrected
"""

JUDGED = """def judged(own, seeds, low, high, p):
    apart = low > 0 or high < 0
    quarter = abs(sum(seeds) / len(seeds)) / 4
    if apart and p < 0.05:
        return "differs" if len(own) > 1 else "outside the seeds"
    if apart:
        return "apart, not after Holm"
    if -quarter < low and high < quarter:
        return "same within a quarter"
    return "open"
"""

ANYTHING = """def anything_p(values, n_own):
    spread = values.std(0)
    values = values[:, spread > 0] / spread[spread > 0]

    def apart(chosen):
        own = np.isin(np.arange(len(values)), chosen)
        return abs(values[own].mean(0) - values[~own].mean(0)).mean()

    ways = itertools.combinations(range(len(values)), n_own)
    far = np.array([apart(way) for way in ways])
    return (far >= far[0] - 1e-12).mean()
"""

WRONG = {
    "judged": [
        (
            JUDGED.replace('"differs" if len(own) > 1 else "outside the seeds"', '"differs"'),
            r"one changed model never differs",
        ),
        (JUDGED.replace("low > 0 or high < 0", "high < 0"), r"may be above 0, too"),
        (JUDGED.replace("apart and p < 0.05", "apart"), r"the corrected p is too large"),
        (JUDGED.replace("-quarter < low and high", "high"), r"one end lies outside the quarter"),
        (JUDGED.replace("abs(sum(seeds) / len(seeds))", "sum(seeds) / len(seeds)"), r"take its size"),
        (JUDGED.replace('"open"', '"same"'), r"expected one of differs, .*, found 'same'"),
    ],
    "anything_p": [
        (
            ANYTHING.replace("values[:, spread > 0] / spread[spread > 0]", "values / spread"),
            r"leave it out",
        ),
        (
            ANYTHING.replace("[:, spread > 0] / spread[spread > 0]", ""),
            r"divide each measure by its spread",
        ),
        (
            ANYTHING.replace(
                "abs(values[own].mean(0) - values[~own].mean(0)).mean()",
                "abs((values[own].mean(0) - values[~own].mean(0)).mean())",
            ),
            r"each distance without its sign",
        ),
        (ANYTHING.replace(">= far[0] - 1e-12", "> far[0] + 1e-12"), r"the way it was counts too"),
        (ANYTHING.replace("1e-12).mean()", "1e-12).sum()"), r"p is a share"),
    ],
    "difference": [
        (DIFFERENCE.replace("sum(own) / m - centre", "centre - sum(own) / m"), r"other way round"),
        (DIFFERENCE.replace("squares / (n - 1)", "squares / n"), r"divide the squares by n - 1"),
        (DIFFERENCE.replace("students_t.ppf(0.975, n - 1)", "stats.Z"), r"takes Student's t"),
        (
            DIFFERENCE.replace("math.sqrt(1 / m + 1 / n)", "math.sqrt(1 / n)"),
            r"error of `own` is missing",
        ),
        (DIFFERENCE.replace("math.sqrt(1 / m + 1 / n)", "math.sqrt(1 / m)"), r"error of the seeds' mean"),
        (DIFFERENCE.replace("0.975, n - 1", "0.975, n"), r"degrees of freedom are n - 1"),
        (DIFFERENCE.replace(", least)", ", 0.0)"), r"never below `least`"),
        (DIFFERENCE.replace("gap - half, gap + half", "half"), r"expected three numbers"),
    ],
    "permutation_p": [
        (DEAL.replace(">= seen - 1e-12", "> seen + 1e-12"), r"the way it was dealt counts too"),
        (DEAL.replace("return abs(", "return -("), r"count both directions"),
        (DEAL.replace(" / len(ways)", ""), r"an odd one out, .*: p is 0.250, found 1.000"),
    ],
    "smallest_p": [
        (
            "def smallest_p(n_own, n_seeds):  # forgets that equal groups can change names\n"
            "    return 1 / math.comb(n_own + n_seeds, n_own)\n",
            r"can change names",
        ),
        (
            "def smallest_p(n_own, n_seeds):  # always two ways\n"
            "    return 2 / math.comb(n_own + n_seeds, n_own)\n",
            r"only one way is the farthest",
        ),
        (
            "def smallest_p(n_own, n_seeds):  # all orders of the models\n"
            "    return 1 / math.factorial(n_own + n_seeds)\n",
            r"the smallest p is 0.2500, found 0.0417",
        ),
    ],
    "false_rate": [
        (
            RATE.replace("luck + rng", "rng"),
            r"the luck of training is missing|the luck of items is missing",
        ),
        (
            RATE.replace("luck + rng.normal(0, items, n_own + n_seeds)", "luck"),
            r"the luck of items is missing|the luck of training is missing",
        ),
        (RATE.replace("spread, n_own + n_seeds", "spread"), r"luck of its own"),
        (RATE.replace("return wrong / draws", "return wrong"), r"your share is 500"),
        (
            RATE.replace("values[:n_own], values[n_own:]", "values[:n_seeds], values[n_seeds:]"),
            r"n_own models with n_seeds models, in this order",
        ),
        (RATE.replace("default_rng(seed)", "default_rng()"), r"the same seed should give the same draws"),
    ],
    "seeds_needed": [
        (NEEDED.replace("abs(gap)", "gap"), r"take its absolute value"),
        (NEEDED.replace(" + 0.84", ""), r"is 0.84 added to t"),
        (NEEDED.replace("2 / n", "1 / n"), r"error that of a difference"),
        (NEEDED.replace("return None", "return most"), r"return None"),
    ],
    "holm": [
        (
            "def holm(p):  # Bonferroni\n    return [min(1.0, len(p) * x) for x in p]\n",
            r"this is Bonferroni",
        ),
        (HOLM.replace("corrected[i] = before", "corrected[rank] = before"), r"in another order"),
        (
            HOLM.replace("min(1.0, (len(p) - rank) * p[i])", "(len(p) - rank) * p[i]"),
            r"no p value is above 1",
        ),
        (HOLM.replace("max(before, min(", "max(0.0, min("), r"none may fall below"),
    ],
}
