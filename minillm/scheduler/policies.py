"""Four ways to fill a step, in the order in which they were found.

               step  1   2   3   4   5   6   7   8          P prefill, p a chunk of one, d decode, · idle
    static     A     P   d   d   d   ·   ·   P …            the batch runs until all have ended,
               B     P   d   d   d   d   d                  and only then the next is filled
    orca       A     P   d   d   d   P …                    whoever ends leaves, whoever waits enters, at every step;
               B     P   d   d   d   d   d                  the steps with a P in them are long for the others
    vllm       A     P   d   d   d   P   ·                  prompts first, in steps of their own:
               B     P   d   d   d   ·   d                  decodes pause meanwhile
    chunked    A     p   p   d   d   d   p …                a prompt is cut to what the decodes leave of the budget:
               B     p   d   d   d   d   d                  every step takes the same time, no stream stutters

Orca: Yu et al., OSDI 2022. vLLM: Kwon et al., 2023, arXiv:2309.06180. Chunked prefill: Agrawal et al., 2024,
arXiv:2403.02310 (Sarathi-Serve).

Prefill first would let requests that end with their prompts stream past those who decode, for ever: so after `patience`
such steps in a row the others have one.
"""


def chunked(step):
    """Decodes first, the rest of the budget to prompts, cut to fit."""
    step.run()
    step.admit()


def orca(step):
    """The same, but a prompt is computed whole in the step in which it enters."""
    step.run()
    step.admit(whole=True)


def vllm(step):
    """A step of prompts if there are any that can enter, else a step of decodes."""
    prefill_first(step, open_door=True)


def static(step):
    """The door is open while a batch is being filled, over several steps if need be, and then closed until all have ended."""
    scheduler = step.scheduler
    scheduler.filling = scheduler.filling or not scheduler.running
    prefill_first(step, open_door=scheduler.filling)
    scheduler.filling = scheduler.filling and step.full  # only for lack of tokens in this step is the batch not full yet


def prefill_first(step, open_door):
    """A step of prompts if it has any, else a step of decodes; swapped requests come back with the decodes."""
    scheduler = step.scheduler
    if scheduler.prefills_in_a_row < step.config.patience or not any(s.decoding for g in scheduler.running for s in g.active):
        step.run(decode=False)
        if open_door:
            step.admit(decode=False, whole=True)
    if step.plan.shares:
        scheduler.prefills_in_a_row += 1
        return
    scheduler.prefills_in_a_row = 0
    step.run(prefill=False)
    step.admit(prefill=False)
    if not step.plan.shares:  # the last who decoded gave way to a prompt that is senior to them
        step.run(decode=False)


POLICIES = {"static": static, "orca": orca, "vllm": vllm, "chunked": chunked}
