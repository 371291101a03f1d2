PEERS: dict = {}
REDUCED = {"lenet5": {}, "cnn": {}}
HEADS = {"lenet5": "dense", "cnn": "dense"}
