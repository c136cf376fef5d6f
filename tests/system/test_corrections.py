"""An adapter that is only ever corrected learns several answers, one correction at a time."""

from pathlib import Path

from ouroboros import AdapterConfig, FeedbackSignal, open_sync_engine

TURNS = (
    ("Where is my parcel?", "team-parcel"),
    ("Cancel my plan", "team-keys"),
    ("I was charged twice", "ledger"),
    ("Play some jazz", "music"),
    ("My package never came", "team-parcel"),
    ("I forgot my password", "team-keys"),
)


def test_each_correction_is_said_and_none_before_it_is_lost(tmp_path: Path):
    with open_sync_engine(store=str(tmp_path / "store"), model="starter") as engine:
        config = AdapterConfig.auto(engine.base().unwrap())
        engine.create_adapter("tickets", config).unwrap()

        def answer(prompt: str) -> str:
            return engine.generate_with_adapter(prompt, "tickets").unwrap().text

        for prompt, right in TURNS:
            answers = answer(prompt)
            if answers != right:
                signal = FeedbackSignal.user_correction(right)
                engine.learn_from_feedback(prompt, answers or "nothing", signal, "tickets").unwrap()
            assert answer(prompt) == right
        n_right = sum(answer(prompt) == right for prompt, right in TURNS)
        assert n_right >= len(TURNS) - 1
