"""One cell: model, method attached, task, training, scores, a look at the result, the record."""
