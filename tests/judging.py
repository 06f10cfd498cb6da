"""Pairs of a gold and an answer, graded as a trainer grades them."""


def pairs(text):
    """[(gold, answer)] of lines `gold ~ answer`."""
    return [tuple(line.split(" ~ ")) for line in text.strip("\n").splitlines()]


def judged_otherwise(grader, text, reward):
    """Those of the pairs that do not get the reward."""
    rows = pairs(text)
    grades = grader.grade(
        [rf"So $\boxed{{{answer}}}$." for _, answer in rows], [g for g, _ in rows]
    )
    return [row for row, grade in zip(rows, grades, strict=True) if grade.reward != reward]
