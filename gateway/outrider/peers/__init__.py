"""Several sidecars, one stop: what is asked of one control plane reaches the others.

    book      who the peers are, and whether they answer: a pure table
    records   a kill as peers tell it to each other, read strictly
    client    asks one peer, bounded in time and size; every way to fail is a sentence
    names     the peers behind a DNS name
    takeover  what two sidecars know of their kills, brought together: a round with one peer
    fleet     the parts above at work: tell everybody at once, ask everybody at once, and a round with each for ever

A peer answers from what it has itself and asks nobody in turn, so no request goes in circles.

There is no shared record yet. Where one comes, it takes the place of ``takeover``'s rounds: a stop may be believed from
whoever tells of it, a release is believed from what is durable somewhere, and both hold for a record as they do here.
"""
