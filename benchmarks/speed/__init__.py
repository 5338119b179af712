"""The sweep beside what people use: one run, the same documents, plans and machine."""
