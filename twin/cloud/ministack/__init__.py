"""Everything that reaches into MiniStack: names that are replaced (`patches`), and what is added (`registry`)."""
