"""Who was asked what and what they answered, in one SQLite file that survives a kill at any time.

Every write is a transaction on disk before the caller is told. A participant's questions are drawn when they begin, so
that a reload, or a new start of the server, shows the same pair on the same sides.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pcpo_overlay.tools.study import StudyError
from pcpo_overlay.tools.study.pairs import ANSWERS, Pair, Study

CHOICES = ("left", "same", "right")
FORMAT = 1
_SCHEMA = """
CREATE TABLE study (id TEXT NOT NULL, token TEXT NOT NULL);
CREATE TABLE participant (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, began TEXT NOT NULL);
CREATE TABLE question (
  key TEXT PRIMARY KEY, participant INTEGER NOT NULL REFERENCES participant, number INTEGER NOT NULL,
  pair INTEGER NOT NULL, swapped INTEGER NOT NULL, answered TEXT,
  UNIQUE (participant, number), UNIQUE (participant, pair)
);
CREATE TABLE answer (
  question TEXT NOT NULL REFERENCES question, category TEXT NOT NULL,
  choice TEXT NOT NULL CHECK (choice IN ('left', 'same', 'right')), PRIMARY KEY (question, category)
);
"""


@dataclass(frozen=True)
class Question:
    """A pair as one participant sees it.

    Attributes:
        key: random; it names the question and its pictures on the page.
        number: from 1.
        pair: what is shown.
        swapped: whether the first arm's picture stands on the right.
    """

    key: str
    number: int
    pair: Pair
    swapped: bool

    def picture(self, side: str) -> str:
        """Name of the picture on the ``left`` or the ``right``."""
        return self.pair.first if (side == "right") == self.swapped else self.pair.other


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes:
        participant: a number of theirs.
        against: the place of the arm that the first one was compared with.
        category: its name.
        choice: ``left``, ``same`` or ``right``.
        outcome: of the first arm: ``win``, ``tie`` or ``loss``.
    """

    participant: int
    against: int
    category: str
    choice: str
    outcome: str


@dataclass(frozen=True)
class Turnout:
    """How many people began, and how many answered all of their questions."""

    began: int
    finished: int


class Answers:
    """The answers of a study.

    Args:
        study: whose.
        create: whether to make the file if there is none.

    Raises:
        StudyError: there is none, or it is not this study's.
    """

    def __init__(self, study: Study, *, create: bool) -> None:
        self.study = study
        self.path: Path = study.path / ANSWERS
        if not create and not self.path.is_file():
            raise StudyError(f"{study.path} has no answers yet; `pcpo study serve` collects them")
        try:
            with self._connected(write=create) as db:
                (kept,) = db.execute("PRAGMA user_version").fetchone()
                if create and not kept and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in _SCHEMA.split(";\n"):
                        db.execute(statement)
                    db.execute("INSERT INTO study VALUES (?, ?)", (study.id, secrets.token_urlsafe(16)))
                    db.execute(f"PRAGMA user_version = {FORMAT}")
                    kept = FORMAT
                if kept != FORMAT:
                    raise StudyError(f"{self.path} holds no answers of this version of pcpo (format {kept})")
                of, self.token = db.execute("SELECT id, token FROM study").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise StudyError(f"{self.path} cannot be used: {error}") from None
        if of != study.id:
            raise StudyError(f"{self.path} has the answers of another study; move it away")

    @contextmanager
    def _connected(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection; one that writes holds the file alone, and what it wrote is on disk at the end."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = EXTRA")  # the folder's entry of the journal is on disk too
            if not write:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def begin(self) -> str:
        """Take in a participant, and draw their questions: comparison, prompt, seed and sides at random.

        Returns:
            The participant's secret key.
        """
        key, draw = secrets.token_urlsafe(24), random.SystemRandom()
        shown = draw.sample(range(len(self.study.pairs)), self.study.questions)
        with self._connected(write=True) as db:
            place = db.execute("INSERT INTO participant (key, began) VALUES (?, ?)", (key, _now())).lastrowid
            db.executemany(
                "INSERT INTO question VALUES (?, ?, ?, ?, ?, NULL)",
                [
                    (secrets.token_urlsafe(12), place, n, pair, draw.randrange(2))
                    for n, pair in enumerate(shown, 1)
                ],
            )
        return key

    def knows(self, participant: str) -> bool:
        """Whether somebody began with this key."""
        with self._connected() as db:
            found = db.execute("SELECT 1 FROM participant WHERE key = ?", (participant,)).fetchone()
        return found is not None

    def current(self, participant: str) -> Question | None:
        """The first question that the participant has not answered; None where they are through."""
        return self._question(participant, "answered IS NULL ORDER BY number LIMIT 1")

    def question(self, participant: str, key: str) -> Question | None:
        """One of the participant's questions; None where it is not theirs."""
        return self._question(participant, "question.key = ?", key)

    def _question(self, participant: str, which: str, *values: str) -> Question | None:
        with self._connected() as db:
            row = db.execute(
                "SELECT question.key, number, pair, swapped FROM question JOIN participant "
                f"ON participant.id = participant WHERE participant.key = ? AND {which}",
                (participant, *values),
            ).fetchone()
        return None if row is None else Question(row[0], row[1], self.study.pairs[row[2]], bool(row[3]))

    def record(self, question: Question, choices: Mapping[str, str]) -> bool:
        """Keep an answer, on disk at the return; the first to a question counts, and a second changes nothing.

        Args:
            question: of the participant who answers.
            choices: ``left``, ``same`` or ``right`` by the name of every category.

        Returns:
            Whether it was the first.
        """
        with self._connected(write=True) as db:
            first = db.execute(
                "UPDATE question SET answered = ? WHERE key = ? AND answered IS NULL", (_now(), question.key)
            ).rowcount
            if first:
                rows = [(question.key, category, choice) for category, choice in choices.items()]
                db.executemany("INSERT INTO answer VALUES (?, ?, ?)", rows)
        return bool(first)

    def votes(self) -> list[Vote]:
        """All answers, by participant and question; those of people who have not finished too."""
        with self._connected() as db:
            rows = db.execute(
                "SELECT participant, pair, swapped, category, choice FROM answer JOIN question "
                "ON question.key = answer.question ORDER BY participant, number, category"
            ).fetchall()
        return [
            Vote(
                participant, self.study.pairs[pair].against, category, choice, _outcome(choice, bool(swapped))
            )
            for participant, pair, swapped, category, choice in rows
        ]

    def turnout(self) -> Turnout:
        """How many began and how many finished."""
        with self._connected() as db:
            left = db.execute(
                "SELECT count(*) - count(answered) FROM question GROUP BY participant"
            ).fetchall()
        return Turnout(len(left), sum(not open_ for (open_,) in left))


def _outcome(choice: str, swapped: bool) -> str:
    if choice == "same":
        return "tie"
    return "win" if (choice == "right") == swapped else "loss"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
