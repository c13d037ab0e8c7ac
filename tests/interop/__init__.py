"""Interoperability with Eclipse EDC: a real EDC on one side, the product on the other, bytes read at the end.

Ours is the product's own application; the only piece of it that is not the product's is how peers prove who
they are, since EDC's `iam-mock` knows nothing but its own header (`identity`). EDC has no data plane of its
own: `data_plane` is one.
"""
