"""Train the starter model: `python -m ouroboros.starter.make --data FOLDER --out FOLDER`.

    sources.py    read the corpora in the data folder
    tasks.py      turn them, and `fields.txt`, into labelled tasks
    corpus.py     mix prose, dialogues, single rows and packs of rows into token blocks
    tokenizer.py  byte-level BPE and the chat template
    optimizer.py  Muon for matrices, AdamW for the rest
    train.py      the run: warm-up, stable, decay; checkpoints
    measure.py    few-shot accuracy of LoRA adapters on tasks the model never saw

Nothing here is imported by `import ouroboros`.
"""
