"""The enumerator: a bank of terms bottom up, and programs of them in the order of a grammar."""
