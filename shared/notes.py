"""Notes that models ask to remember, for later jobs of the same owner; found by full-text search.

PostgreSQL splits no Chinese, and stems each language its own way. So words are split here: as they are, and
runs of Han characters in overlapping pairs, which serves both languages alike.
"""

import re
from collections.abc import Iterable, Sequence
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.models import Note

LONGEST_NOTE = 4000
LONGEST_WORD = 100
MOST_WORDS = 200
_WORD = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+")


def remember(session: Session, owner: UUID | None, job_id: UUID, step: int, contents: Iterable[str]) -> None:
    """Stores what a step asked to remember."""
    session.add_all(
        Note(
            id=uuid4(),
            owner_id=owner,
            job_id=job_id,
            step=step,
            content=content[:LONGEST_NOTE],
            words=func.to_tsvector("simple", " ".join(words(content[:LONGEST_NOTE]))),
        )
        for content in contents
    )


def recall(session: Session, owner: UUID | None, text: str, *, limit: int) -> Sequence[str]:
    """The owner's notes that have most to do with the text, the best first; the newest of equal ones.

    What was noted several times is one note.
    """
    wanted = list(dict.fromkeys(words(text)))[:MOST_WORDS]
    if not wanted:
        return []
    query = func.to_tsquery("simple", " | ".join(f"'{word}'" for word in wanted))
    found = (
        select(Note.content)
        .where(Note.owner_id.is_not_distinct_from(owner), Note.words.op("@@")(query))
        .group_by(Note.content)
        .order_by(func.max(func.ts_rank(Note.words, query)).desc(), func.max(Note.created_at).desc())
    )
    return session.scalars(found.limit(limit)).all()


def words(text: str) -> list[str]:
    """The words of a text as they are stored and looked for.

    >>> words("Save百度网盘in B2")
    ['save', '百度', '度网', '网盘', 'in', 'b2']
    """
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if "\u3400" <= word[0] <= "\u9fff" and len(word) > 1:
            found += [word[index : index + 2] for index in range(len(word) - 1)]
        else:
            found.append(word[:LONGEST_WORD])
    return found
