"""How long what is over is kept: screenshots for some days, jobs for as long as the settings say."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, text, update
from sqlalchemy.orm import Session, aliased

from shared.models import Job, Sandbox, Step, Webhook


def with_old_pictures(session: Session, *, days: float, limit: int) -> Sequence[UUID]:
    """Some jobs that ended so many days ago, and whose screenshots are still kept.

    Not always the same ones: those of one of them may resist.
    """
    old = and_(Job.has_pictures, Job.finished_at < func.now() - timedelta(days=days))
    return session.scalars(select(Job.id).where(old).order_by(func.random()).limit(limit)).all()


def forget_pictures(session: Session, job_id: UUID) -> None:
    """The job's screenshots are gone."""
    session.execute(update(Step).where(Step.job_id == job_id).values(picture=None))
    session.execute(update(Job).where(Job.id == job_id).values(has_pictures=False))


def remove_jobs(session: Session, *, days: float, limit: int, pictures: bool) -> int:
    """Removes jobs that ended so many days ago, with their steps and events. Returns how many.

    Not while another continues their context, a sandbox of theirs is not deleted yet, somebody is still to be
    told of their end, or, with `pictures`, the store keeps screenshots of them.
    """
    # A plan for any number of days reads whole tables to learn what is still needed.
    session.execute(text("SET LOCAL plan_cache_mode = auto"))
    child = aliased(Job)
    needed = or_(
        select(child.id).where(child.parent_id == Job.id).exists(),
        select(Sandbox.job_id).where(Sandbox.job_id == Job.id).exists(),
        select(Webhook.job_id).where(Webhook.job_id == Job.id).exists(),
        *([Job.has_pictures] if pictures else []),
    )
    old = (
        select(Job.id)
        .where(Job.finished_at < func.now() - timedelta(days=days), ~needed)
        .order_by(Job.finished_at)
        .limit(limit)
        # A follow-up that is just being submitted holds its parent; other janitors have theirs.
        .with_for_update(of=Job, skip_locked=True)
    )
    removed = session.execute(
        delete(Job)
        .where(Job.id.in_(old.scalar_subquery()))
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return len(removed.all())
