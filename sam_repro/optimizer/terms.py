"""What a rule asked for, by name: averaged over parts and ranks."""

from torch import Tensor

from sam_repro.oracle import Mean, Term

Terms = dict[str, Term]


def loss_of(terms: Terms) -> Tensor:
    """The loss of the first term at w that has one, else of the first that has one."""
    with_loss = [term for term in terms.values() if term.loss is not None]
    loss = next((term for term in with_loss if term.at == "w"), with_loss[0]).loss
    assert loss is not None
    return loss


def averaged(terms: Terms, mean: Mean) -> Terms:
    """The means over ranks of vectors and losses."""
    vectors = [mean(term.vector) for term in terms.values()]
    losses = iter(mean([term.loss for term in terms.values() if term.loss is not None]))
    return {
        name: term._replace(vector=vector, loss=None if term.loss is None else next(losses))
        for (name, term), vector in zip(terms.items(), vectors, strict=True)
    }


def added(total: Terms, terms: Terms, share: float) -> Terms:
    """Total + share·terms, term by term."""
    weighted = {name: term.times(share) for name, term in terms.items()}
    return {name: total[name].plus(term) for name, term in weighted.items()} if total else weighted
