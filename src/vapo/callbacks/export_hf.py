"""Exports actor and critic at the end of a run, as Hugging Face folders that `from_pretrained` and vLLM can load."""

import json
from pathlib import Path

from lightning import Callback, Trainer

from vapo.models.export import export_actor, export_critic
from vapo.module import RLModule

CARD = """---
library_name: transformers
tags: [vapo, reinforcement-learning]
---
# {title}

{what} Trained by Open VAPO from `{base}`: {algorithm}, {policy_steps} RL steps of policy training, {rollouts} rollouts.

| metric | last |
|---|---|
{scores}

Commit {commit}; command `{command}`.

<details><summary>configuration</summary>

```yaml
{configuration}
```
</details>
"""


class ExportHF(Callback):
    """Writes `<folder>/actor` and, if there is a critic, `<folder>/critic`: weights, tokenizer, configurations, card."""

    def __init__(self, folder: str, run: str, base: str) -> None:
        """
        Args:
            folder: where the two folders go.
            run: the run's folder, whose record goes into the model card.
            base: path of the model that training started from, for the card.
        """
        self.folder, self.run, self.base = Path(folder), Path(run), base

    def on_train_end(self, trainer: Trainer, module: RLModule) -> None:
        export_actor(module.actor, self.folder / "actor")
        if module.algorithm.needs_critic:
            export_critic(module.critic, self.folder / "critic")
        if trainer.is_global_zero:
            self._accompany(module, "actor", "The policy, a causal language model.")
            if module.algorithm.needs_critic:
                self._accompany(module, "critic", "The critic, a token classifier: its score is the value of the state.")

    def _accompany(self, module: RLModule, name: str, what: str) -> None:
        folder = self.folder / name
        module.tokenizer.save_pretrained(folder)
        record = json.loads((self.run / "record.json").read_text())[-1]
        scores = {key: value for key, value in module.latest.items() if "@" in key or key.startswith("response/")}
        card = CARD.format(
            title=f"{Path(self.base).name} {type(module.algorithm).__name__} {name}",
            what=what,
            base=self.base,
            algorithm=type(module.algorithm).__name__,
            policy_steps=module.policy_step,
            rollouts=module.rollouts_sampled,
            scores="\n".join(f"| {key} | {value:.4g} |" for key, value in sorted(scores.items())),
            commit=record["commit"],
            command=" ".join(record["command"]),
            configuration=(self.run / "resolved.yaml").read_text().strip(),
        )
        (folder / "README.md").write_text(card)
