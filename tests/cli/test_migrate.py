"""`ouroboros migrate`: the copy answers as the store it came from."""


def test_a_store_moves_and_is_compared(cli, home):
    cli("create", "tickets")
    moved = cli("migrate", "--to", "there")
    assert moved.code == 0
    assert moved.out.startswith("Copied and verified 2 blobs")
    assert cli("list", "--store", "there", "--json").json == cli("list", "--json").json
    assert cli("migrate", "--from", "./ouroboros-store", "--to", "there", "--json").json["blobs"] == 2


def test_two_urls_name_a_store(cli, home):
    cli("create", "tickets")
    urls = (f"sqlite:///{home}/m.db", f"file://{home}/weights")
    assert cli("migrate", "--to", *urls).code == 0
    listing = cli("list", "--metadata", urls[0], "--blobs", urls[1], "--json")
    assert [a["name"] for a in listing.json] == ["tickets"]


def test_what_cannot_be_copied_is_refused(cli, home):
    assert cli("migrate", "--to", "there").code == 3
    cli("create", "tickets")
    assert "same store" in cli("migrate", "--to", "ouroboros-store").error
    assert "two URLs" in cli("migrate", "--to", "a", "b", "c").error
    assert "redis" in cli("migrate", "--to", "redis://u:hunter2@h/0", f"file://{home}/w").error
    assert "hunter2" not in cli("migrate", "--to", "redis://u:hunter2@h/0", f"file://{home}/w").error
