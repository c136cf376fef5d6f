"""Training examples: what a user hands over to be learned."""

from dataclasses import dataclass

from ouroboros.domain.checks import check_number, validated
from ouroboros.domain.errors import InvalidConfig, InvalidExample
from ouroboros.domain.prompts import Prompt, check_prompt, check_text
from ouroboros.domain.result import Result

MAX_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """`input` should be answered with `output`; `weight`, 0 to 1000, scales its share of the loss."""

    input: Prompt
    output: str
    weight: float = 1.0

    def validate(self) -> Result["TrainingExample"]:
        return validated(self, self.check)

    def check(self) -> None:
        check_prompt("input", self.input)
        check_text("output", self.output)
        try:
            check_number("weight", self.weight, 1e-6, MAX_WEIGHT)
        except InvalidConfig as error:
            raise InvalidExample(error.message, hint=error.hint) from None
