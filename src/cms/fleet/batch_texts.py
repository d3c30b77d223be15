"""What a task of a batch is asked: its prompt and context, with what they want of other tasks put in."""

from __future__ import annotations

from cms.batch import template
from cms.batch.model import Task, field_of
from cms.fleet.crew import NotDone
from cms.store import batch_tasks
from cms.store.store import Store


async def texts_of(store: Store, batch_id: str, task: Task) -> tuple[str, str]:
    """The prompt and the context with the results of needed tasks put in; neither where it goes on.

    Raises:
        NotDone: a result does not have what is wanted of it.
    """
    options = task.options
    if task.go_on:
        return "", ""
    places = template.wanted(f"{options.prompt}\n{options.context}", options.needs)
    names = list(dict.fromkeys(one.name for one in places))
    found = await store.read(batch_tasks.named, batch_id, names) if names else []
    results = {task.name: task for task in found}

    def field(place: template.Wanted) -> str:
        return field_of(results[place.name], place)

    try:
        prompt = template.fill(options.prompt, options.needs, field, options.row)
        return prompt, template.fill(options.context, options.needs, field, options.row)
    except template.NoSuchPart as error:
        raise NotDone(error, begun=False, cost=0.0) from None
