"""The embedded demo model and its stories, the default of `attn-dsl fit`, and how they were made."""
