"""Small encoders of sentences in a folder: one for the library, and one for a stand-in of it."""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 16
LONGEST = 12  # tokens of a text, marks at both ends among them
BEGINS, ENDS, FIRST_WORD = 101, 102, 103
WORDS = 200


class TinyTransformer(nn.Module):
    """Called as those of transformers: each token sees the mean of its text, dropout, and a pooler
    that takes no part."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=WIDTH, pad_token_id=0)
        with torch.random.fork_rng():  # weights from a file draw nothing
            torch.manual_seed(seed)
            self.words = nn.Embedding(FIRST_WORD + WORDS, WIDTH)
            self.layer = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.pooler: nn.Module | None = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        here = self.dropout(self.words(input_ids))  # (B, T, WIDTH)
        weight = attention_mask[:, :, None] / attention_mask.sum(dim=1)[:, None, None]
        around = (here * weight).sum(dim=1, keepdim=True).expand_as(here)
        tokens = self.layer(torch.cat([here, around], dim=2)).tanh()
        return SimpleNamespace(last_hidden_state=tokens)


class StandIn:
    """In the place of ``SentenceTransformer``."""

    max_seq_length = LONGEST

    def __init__(self, folder: str, device: str, local_files_only: bool) -> None:
        assert (device, local_files_only) == ("cpu", True)
        self._seed = json.loads((Path(folder) / "weights.json").read_text())

    def __getitem__(self, index: int) -> Any:
        assert index == 0
        return SimpleNamespace(auto_model=TinyTransformer(self._seed).eval())

    @staticmethod
    def tokenizer(
        texts: Sequence[str], truncation: bool, max_length: int
    ) -> dict[str, list[list[int]]]:
        assert truncation
        words = [re.findall(r"\w+", text)[: max_length - 2] for text in texts]
        ids = [[FIRST_WORD + zlib.crc32(word.encode()) % WORDS for word in row] for row in words]
        return {"input_ids": [[BEGINS, *row, ENDS] for row in ids]}


def stand_in_library() -> ModuleType:
    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = StandIn  # type: ignore[attr-defined]
    return library


def stand_in_folder(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "weights.json").write_text(str(seed))
    return folder


def miniature_folder(folder: Path, seed: int = 0) -> Path:
    """As the folder of all-MiniLM-L6-v2, with two thin layers, random weights, and a vocabulary of
    letters."""
    import transformers

    folder.mkdir(parents=True)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyzü0123456789"
    vocabulary = [*marks, ',"?_', *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    for name, content in {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64,
        },
        "sentence_bert_config.json": {"max_seq_length": LONGEST, "do_lower_case": False},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1, "name": "1", "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True,
        },
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder
