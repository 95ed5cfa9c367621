"""Names of the files in a state directory that belong to the service as a whole."""

#: The database.
DATABASE = "honed.db"
#: Held while a service runs, so that a second one refuses to start.
LOCK = "honed.lock"
#: Where the running service answers; there only while it does.
SERVICE = "service.json"
#: The key that signs feedback receipts.
SECRET = "secret"  # noqa: S105 - a file name
#: Resolved models.
MODELS = "models"
#: Run directories.
ITERATIONS = "iterations"
