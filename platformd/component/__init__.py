"""A component of a platform in twenty lines: what it does is a function, the control API is there.

::

    import msgspec
    from platformd.component import Component, Job

    class Field(msgspec.Struct, forbid_unknown_fields=True):
        ra: float
        dec: float
        radius: float = 0.1

    component = Component("photometry", version="1.0")

    @component.service("Measure one field.")
    async def measure(job: Job, field: Field) -> dict[str, float]:
        for step in range(10):
            await job.checkpoint()  # holds while the component is paused, ends when the job is stopped
            job.report(step / 10, "measuring")
        return {"flux": field.radius * 2}

    if __name__ == "__main__":
        component.main()

``python photometry.py --listen 127.0.0.1:7100`` then answers everything that ``platformd.model.component`` promises,
and ``platformd component check http://127.0.0.1:7100`` tries it. A plain function (``def``) runs in a thread. A trio
program holds a component as a task: ``await nursery.start(component.serve, options)``.
"""

from platformd.component.declaration import Component
from platformd.component.handle import Job, JobStopped
from platformd.component.options import Options

__all__ = ["Component", "Job", "JobStopped", "Options"]
