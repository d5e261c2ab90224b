"""What is read: folders, JSONL, archives, tables, repositories, here or in object stores, to records of documents."""
