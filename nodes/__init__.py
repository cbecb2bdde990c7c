"""The pack's ComfyUI nodes: schema, a call into the core, return."""

from . import keyframes, lora, memory, sampling, shots

NODES = [
    memory.StoryMemMemoryBank,
    memory.StoryMemSaveBank,
    memory.StoryMemLoadBank,
    keyframes.StoryMemKeyframeExtractor,
    shots.StoryMemShotTransition,
    shots.StoryMemJoinShots,
    sampling.StoryMemSampler,
    sampling.StoryMemApplyMemory,
    sampling.StoryMemTrimMemory,
    sampling.StoryMemNoise,
    lora.StoryMemLoraLoader,
]
