"""The doctor and the schedules in other people's loops: Lightning, Hugging Face's Trainer, Ignite, TensorBoard.

Each tool is imported when its own module is, and only then; without it the import says what to install.

```python
from trivet.integrations.lightning import Doctor;     trainer = Trainer(callbacks=[doctor := Doctor()])
from trivet.integrations.transformers import Doctor;  trainer = Trainer(..., callbacks=[doctor := Doctor()])
from trivet.integrations.ignite import Doctor;        doctor = Doctor(model, optimizer).attach(engine)
from trivet.integrations.tensorboard import Writer;   w = trivet.watch(model, optimizer, write=Writer("logs"))
```

Afterwards `doctor.findings` is what is wrong, the root cause first.
"""
