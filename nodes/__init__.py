"""The pack's ComfyUI nodes: schema, a call into the core, return."""

from . import directed_shot, director, films, keyframes, lora, memory, sampling, shots, story, training

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
    story.StoryMemScript,
    story.StoryMemShot,
    director.StoryMemDirector,
    directed_shot.StoryMemDirectedShot,
    films.StoryMemSaveShot,
    films.StoryMemLoadShot,
    films.StoryMemFilm,
    training.StoryMemTrainingSet,
    training.StoryMemExportTrainingSet,
]
