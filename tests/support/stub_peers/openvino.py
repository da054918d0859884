"""OpenVINO's tensors and properties, as far as the benchmark uses them."""


class Tensor:
    def __init__(self, array):
        self.rows = array.tolist()


class Kind:
    def __init__(self, name):
        self.name = name

    def get_type_name(self):
        return self.name


class Core:
    def get_property(self, device, key):
        found = {
            "INFERENCE_PRECISION_HINT": Kind("bf16"),
            "KV_CACHE_PRECISION": Kind("u8"),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32,
        }
        return found[key]
