from dataclasses import dataclass


@dataclass
class VectorsOnly:
    name: str
    dim: int

    @property
    def digest(self) -> str:
        return self.name
