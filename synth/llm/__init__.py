"""Language models as proposers: they write programs token by token, and can only write programs."""
