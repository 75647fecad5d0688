"""Label representations: one file each, one function each, all made of the label graph."""
