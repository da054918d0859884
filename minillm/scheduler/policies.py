"""Four ways to fill a step, in the order in which they were found.

               step  1   2   3   4   5   6   7   8          P prefill, p a chunk of one, d decode, · idle
    static     A     P   d   d   d   ·   ·   P …            the batch runs until all have ended,
               B     P   d   d   d   d   d                  and only then the next is filled
    orca       A     P   d   d   d   P …                    at every step finished requests leave and waiting ones enter;
               B     P   d   d   d   d   d                  the steps with a P in them are long for the others
    vllm       A     P   d   d   d   P   ·                  prompts first, in steps of their own:
               B     P   d   d   d   ·   d                  decodes pause meanwhile
    chunked    A     p   p   d   d   d   p …                a prompt is cut to what the decodes leave of the budget:
               B     p   d   d   d   d   d                  every step takes the same time, no stream stutters

Orca: Yu et al., OSDI 2022. vLLM: Kwon et al., 2023, arXiv:2309.06180. Chunked prefill: Agrawal et al., 2024,
arXiv:2403.02310 (Sarathi-Serve).

A long prompt in one step delays every decode behind it: *head-of-line blocking*, of which `chunked` bounds the length.
Prefill first could even starve the decodes while new prompts keep arriving: so after `patience` such steps in a row, one
step goes to the decodes.
"""


from minillm.scheduler.step import PlanBuilder


def chunked(step: PlanBuilder) -> None:
    """Chunked prefill: decodes first, the rest of the budget to prompts, cut to fit."""
    step.schedule_running()
    step.admit()


def orca(step: PlanBuilder) -> None:
    """Iteration-level batching: as chunked, but a prompt is computed whole in the step in which it enters."""
    step.schedule_running()
    step.admit(whole=True)


def vllm(step: PlanBuilder) -> None:
    """Prefill first: a step of prompts if any can be admitted, else a step of decodes."""
    prefill_first(step, admit=True)


def static(step: PlanBuilder) -> None:
    """Static batching: admit until the batch is full, over several steps if need be, then nothing until all have finished."""
    scheduler = step.scheduler
    scheduler.filling = scheduler.filling or not scheduler.running
    prefill_first(step, admit=scheduler.filling)
    scheduler.filling = scheduler.filling and step.full  # only for lack of tokens in this step is the batch not full yet


def prefill_first(step: PlanBuilder, admit: bool) -> None:
    """Plan a step of prompts if there are any, else a step of decodes; swapped requests are swapped in with the decodes."""
    scheduler = step.scheduler
    if scheduler.prefills_in_a_row < step.config.patience or not any(s.decoding for g in scheduler.running for s in g.active):
        step.schedule_running(decode=False)
        if admit:
            step.admit(decode=False, whole=True)
    if step.plan.shares:
        scheduler.prefills_in_a_row += 1
        return
    scheduler.prefills_in_a_row = 0
    step.schedule_running(prefill=False)
    step.admit(prefill=False)
    if not step.plan.shares:  # the last decodes were preempted for a prompt that is senior to them
        step.schedule_running(decode=False)


POLICIES = {"static": static, "orca": orca, "vllm": vllm, "chunked": chunked}
