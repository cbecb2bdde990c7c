"""Small graphs that show how the nodes are wired: the pictures of the help pages."""

from dataclasses import dataclass, field

from browser.front_end import FrontEnd


@dataclass
class Wiring:
    """nodes: name -> type, x, y, widget values. cables: "node.output node.input". run: queue it for its previews."""

    nodes: dict[str, tuple]
    cables: tuple[str, ...]
    titles: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    run: bool = False

    def build(self, front_end: FrontEnd) -> None:
        """Put the graph on the canvas."""
        front_end.clear()
        ids = {}
        for name, (kind, x, y, *widgets) in self.nodes.items():
            ids[name] = front_end.add(kind, (x, y), **(widgets[0] if widgets else {}))
        for cable in self.cables:
            (source, output), (target, name) = (end.split(".") for end in cable.split())
            front_end.connect(ids[source], output, ids[target], name)
        looks = [[ids[name], self.titles.get(name), self.sizes.get(name)] for name in self.nodes]
        front_end.page.evaluate(
            """(looks) => {
              for (const [id, title, size] of looks) {
                const node = app.graph.getNodeById(id);
                if (title) node.title = title;
                if (size) node.setSize([size[0], Math.max(size[1], node.computeSize()[1])]);
              }
            }""",
            looks,
        )
        if self.run:
            front_end.show()
            front_end.run()
            front_end.page.wait_for_timeout(1500)


HIGH, LOW = ({"unet_name": f"wan2.2_i2v_{noise}_noise_14B_fp8_scaled.safetensors"} for noise in ("high", "low"))
LORA_HIGH, LORA_LOW = ({"lora_name": f"backbone_{noise}_noise.safetensors"} for noise in ("high", "low"))
EXPERTS = {"high": "Wan 2.2 I2V, high noise", "low": "Wan 2.2 I2V, low noise"}
VAE = {"vae_name": "wan_2.1_vae.safetensors"}
CLIP = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}
STORY = """{
  "story_name": "The Night Ferry",
  "scenes": [
    {
      "scene_num": 1,
      "video_prompts": [
        "Wide shot at dusk, an old red ferry at a stone quay. Ines, in a mustard coat, walks up the gangway.",
        "Ines, in a mustard coat, steps on deck and looks back at the town."
      ],
      "cut": [true, false]
    }
  ]
}
"""

WIRINGS = {
    "memory_bank": Wiring(
        {
            "oak": ("LoadImage", 0, 0, {"image": "mr_oak.png"}),
            "bank": ("StoryMemMemoryBank", 330, 0, {"reference_labels": "Mr. Oak"}),
            "bakery": ("LoadImage", 0, 500, {"image": "bakery.png"}),
            "both": ("StoryMemMemoryBank", 800, 500, {"reference_labels": "bakery"}),
            "sampler": ("StoryMemSampler", 1270, 0),
            "shown": ("PreviewImage", 1270, 660),
        },
        (
            "oak.IMAGE bank.reference_images",
            "bank.bank both.bank",
            "bakery.IMAGE both.reference_images",
            "both.bank sampler.bank",
            "both.keyframes shown.images",
        ),
        {"oak": "Mr. Oak", "bakery": "The bakery", "shown": "Recalled keyframes"},
        {"oak": (280, 340), "bakery": (280, 340), "bank": (420, 380), "both": (420, 380), "shown": (330, 200)},
        run=True,
    ),
    "save_bank": Wiring(
        {
            "extractor": ("StoryMemKeyframeExtractor", 0, 0),
            "save": ("StoryMemSaveBank", 420, 0),
            "load": ("StoryMemLoadBank", 420, 200),
            "sampler": ("StoryMemSampler", 840, 0),
        },
        ("extractor.bank save.bank", "load.bank sampler.bank"),
        {"load": "Load Memory Bank (another workflow)"},
        {"save": (340, 100), "load": (340, 100)},
    ),
    "keyframe_extractor": Wiring(
        {
            "video": ("LoadVideo", 0, 0, {"file": "shot_1.mp4"}),
            "frames": ("GetVideoComponents", 330, 0),
            "extractor": ("StoryMemKeyframeExtractor", 570, 0, {"label": "hero"}),
            "sampler": ("StoryMemSampler", 1040, 0),
            "report": ("PreviewAny", 1040, 600),
        },
        (
            "video.VIDEO frames.video",
            "frames.images extractor.images",
            "extractor.bank sampler.bank",
            "extractor.report report.source",
        ),
        {"video": "The decoded shot", "frames": "Frames", "report": "Report"},
        {"video": (290, 300), "frames": (190, 86), "extractor": (420, 560), "report": (420, 240)},
        run=True,
    ),
    "shot_transition": Wiring(
        {
            "before": ("VAEDecode", 0, 720),
            "transition": ("StoryMemShotTransition", 260, 580, {"kind": "first_frame"}),
            "sampler": ("StoryMemSampler", 660, 0),
            "decode": ("VAEDecode", 1040, 0),
            "join": ("StoryMemJoinShots", 1300, 600),
        },
        (
            "before.IMAGE transition.previous_images",
            "before.IMAGE join.previous_images",
            "transition.transition sampler.transition",
            "sampler.latent decode.samples",
            "decode.IMAGE join.images",
            "transition.transition join.transition",
        ),
        {"before": "Previous shot", "decode": "New shot"},
        {"before": (200, 46), "decode": (200, 46), "transition": (320, 90)},
    ),
    "sampler": Wiring(
        {
            "high": ("UNETLoader", 0, 0, HIGH),
            "lora_high": ("StoryMemLoraLoader", 480, 0, LORA_HIGH),
            "low": ("UNETLoader", 0, 670, LOW),
            "lora_low": ("StoryMemLoraLoader", 480, 670, LORA_LOW),
            "clip": ("CLIPLoader", 0, 140, CLIP),
            "vae": ("VAELoader", 480, 540, VAE),
            "positive": ("CLIPTextEncode", 480, 140, {"text": "Ines, in a mustard coat, steps on deck ..."}),
            "negative": ("CLIPTextEncode", 480, 340, {"text": "blurry, distorted, static"}),
            "bank": ("StoryMemMemoryBank", 480, 820),
            "sampler": ("StoryMemSampler", 1000, 0),
            "decode": ("VAEDecode", 1380, 0),
        },
        (
            "high.MODEL lora_high.model",
            "low.MODEL lora_low.model",
            "clip.CLIP positive.clip",
            "clip.CLIP negative.clip",
            "lora_high.model sampler.model",
            "lora_low.model sampler.model_low_noise",
            "positive.CONDITIONING sampler.positive",
            "negative.CONDITIONING sampler.negative",
            "vae.VAE sampler.vae",
            "bank.bank sampler.bank",
            "sampler.latent decode.samples",
        ),
        {
            "high": "Wan 2.2 I2V, high noise",
            "low": "Wan 2.2 I2V, low noise",
            "positive": "Prompt",
            "negative": "Negative",
        },
        {
            **{name: (420, 82) for name in ("high", "low", "lora_high", "lora_low")},
            **{
                "clip": (420, 106),
                "positive": (420, 140),
                "negative": (420, 140),
                "vae": (420, 58),
                "bank": (420, 200),
            },
            "decode": (180, 46),
        },
    ),
    "native_sampler": Wiring(
        {
            "apply": ("StoryMemApplyMemory", 0, 470),
            "noise": ("StoryMemNoise", 380, 0),
            "guider": ("CFGGuider", 380, 130),
            "method": ("KSamplerSelect", 380, 276),
            "schedule": ("BasicScheduler", 380, 382),
            "sampler": ("SamplerCustomAdvanced", 760, 440),
            "trim": ("StoryMemTrimMemory", 1060, 440),
            "decode": ("VAEDecode", 1320, 440),
        },
        (
            "apply.model guider.model",
            "apply.positive guider.positive",
            "apply.negative guider.negative",
            "apply.latent sampler.latent_image",
            "apply.model schedule.model",
            "noise.noise sampler.noise",
            "guider.GUIDER sampler.guider",
            "method.SAMPLER sampler.sampler",
            "schedule.SIGMAS sampler.sigmas",
            "sampler.output trim.latent",
            "trim.latent decode.samples",
        ),
        {},
        {
            "decode": (200, 46),
            "sampler": (260, 120),
            "trim": (200, 30),
            "noise": (300, 82),
            "guider": (300, 98),
            "method": (300, 58),
            "schedule": (300, 106),
        },
    ),
    "training_set": Wiring(
        {
            "high": ("UNETLoader", 0, 0, HIGH),
            "shift": ("ModelSamplingSD3", 430, 0, {"shift": 4.0}),
            "vae": ("VAELoader", 430, 130, VAE),
            "clip": ("CLIPLoader", 430, 260, CLIP),
            "set": ("StoryMemTrainingSet", 870, 0),
            "train": ("TrainLoraNode", 1310, 0, {"rank": 32, "checkpoint_depth": 2}),
            "export": ("StoryMemExportTrainingSet", 1310, 640),
            "save": ("SaveLoRA", 1710, 0, {"prefix": "loras/storymem_high_noise"}),
        },
        (
            "high.MODEL shift.model",
            "shift.MODEL set.model",
            "clip.CLIP set.clip",
            "vae.VAE set.vae",
            "set.model train.model",
            "set.latents train.latents",
            "set.positive train.positive",
            "set.latents export.latents",
            "set.positive export.positive",
            "train.lora save.lora",
            "train.steps save.steps",
        ),
        EXPERTS,
        {
            **{"high": (380, 82), "shift": (380, 58), "vae": (380, 58), "clip": (380, 106), "set": (380, 0)},
            **{"train": (340, 0), "export": (340, 0), "save": (320, 0)},
        },
    ),
    "lora": Wiring(
        {
            "high": ("UNETLoader", 0, 0, HIGH),
            "lora_high": ("StoryMemLoraLoader", 480, 0, LORA_HIGH),
            "low": ("UNETLoader", 0, 150, LOW),
            "lora_low": ("StoryMemLoraLoader", 480, 150, LORA_LOW),
            "sampler": ("StoryMemSampler", 960, 0),
        },
        (
            "high.MODEL lora_high.model",
            "low.MODEL lora_low.model",
            "lora_high.model sampler.model",
            "lora_low.model sampler.model_low_noise",
        ),
        EXPERTS,
        {name: (420, 82) for name in ("high", "low", "lora_high", "lora_low")},
    ),
    "story_script": Wiring(
        {
            "script": ("StoryMemScript", 0, 0, {"script": STORY}),
            "shot": ("StoryMemShot", 680, 0, {"index": 2}),
            "text": ("CLIPTextEncode", 1000, 0),
        },
        ("script.story shot.story", "shot.prompt text.text"),
        {"text": "Its prompt"},
        {"script": (600, 480), "text": (260, 100), "shot": (260, 110)},
    ),
    "director": Wiring(
        {
            "script": ("StoryMemScript", 0, 0, {"script": STORY}),
            "high": ("UNETLoader", 0, 640, HIGH),
            "lora_high": ("StoryMemLoraLoader", 480, 640, LORA_HIGH),
            "clip": ("CLIPLoader", 480, 780, CLIP),
            "vae": ("VAELoader", 480, 940, VAE),
            "low": ("UNETLoader", 0, 1060, LOW),
            "lora_low": ("StoryMemLoraLoader", 480, 1060, LORA_LOW),
            "director": ("StoryMemDirector", 1000, 0),
            "save": ("SaveVideo", 1460, 0),
        },
        (
            "script.story director.story",
            "high.MODEL lora_high.model",
            "low.MODEL lora_low.model",
            "lora_high.model director.model",
            "clip.CLIP director.clip",
            "vae.VAE director.vae",
            "lora_low.model director.model_low_noise",
            "director.video save.video",
        ),
        EXPERTS,
        {
            **{name: (420, 82) for name in ("high", "low", "lora_high", "lora_low")},
            **{"clip": (420, 106), "vae": (420, 58), "script": (900, 560), "director": (400, 860), "save": (320, 120)},
        },
    ),
    "save_shot": Wiring(
        {
            "sampler1": ("StoryMemSampler", 0, 0),
            "save1": ("StoryMemSaveShot", 360, 0, {"folder": "by_hand/001", "number": 1}),
            "transition": ("StoryMemShotTransition", 760, 480, {"kind": "first_frame"}),
            "sampler2": ("StoryMemSampler", 1140, 260),
            "save2": ("StoryMemSaveShot", 1500, 0, {"folder": "by_hand/002", "number": 2}),
            "film": ("StoryMemFilm", 1900, 0, {"film": "by_hand/film.mp4"}),
        },
        (
            "sampler1.latent save1.latent",
            "save1.bank sampler2.bank",
            "save1.shot transition.previous_shot",
            "transition.transition sampler2.transition",
            "sampler2.latent save2.latent",
            "save1.shot save2.previous",
            "save2.shot film.shot",
        ),
        {"sampler1": "Shot 1", "save1": "Save shot 1", "sampler2": "Shot 2", "save2": "Save shot 2"},
        {"film": (300, 100), "save1": (340, 440), "save2": (340, 440), "transition": (320, 110)},
    ),
}
