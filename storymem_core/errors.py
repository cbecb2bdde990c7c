"""The one exception a wrong input raises."""


class InputError(ValueError):
    """A node input that cannot be used: names the input, its value, the problem and the remedy."""

    def __init__(self, name: str, value: object, problem: str, remedy: str):
        super().__init__(f"{name}={value!r}: {problem}. {remedy}")
        self.name = name
