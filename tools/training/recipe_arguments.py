"""The arguments of ``linzoo train`` that make a recipe: optimizer, schedule, augmentation, loss, average."""

from .argument_kinds import Group, KeyValues, switch


def add_optimizer(group: Group) -> None:
    add = group.add_argument
    add("--opt", default="sgd", metavar="NAME", help="any optimizer of timm (sgd)")
    add("--opt-eps", type=float, metavar="X", help="epsilon (default: the optimizer's)")
    add("--opt-betas", type=float, nargs="+", metavar="X", help="betas (default: the optimizer's)")
    add("--momentum", type=float, default=0.9, metavar="X", help="momentum (0.9)")
    add("--weight-decay", type=float, default=2e-5, metavar="X", help="weight decay (2e-5)")
    add("--clip-grad", type=float, metavar="X", help="gradient clipping (default: none)")
    add("--clip-mode", default="norm", choices=("norm", "value", "agc"), help="default norm")
    add("--layer-decay", type=float, metavar="X", help="factor on the learning rate from layer to layer")
    add("--layer-decay-min-scale", type=float, default=0.0, metavar="X", help="its lower bound (0)")
    add("--layer-decay-no-opt-scale", type=float, metavar="X", help="layers under this factor are frozen")
    add(
        "--opt-kwargs",
        nargs="*",
        default={},
        action=KeyValues,
        metavar="K=V",
        help="the optimizer's arguments",
    )


def add_schedule(group: Group) -> None:
    add = group.add_argument
    add("--sched", default="cosine", metavar="NAME", help="any schedule of timm (cosine)")
    switch(group, "sched-on-updates", "a new learning rate every update in place of every epoch")
    add("--lr", type=float, metavar="X", help="learning rate; wins over --lr-base")
    add(
        "--lr-base",
        type=float,
        default=0.1,
        metavar="X",
        help="learning rate at --lr-base-size pictures (0.1)",
    )
    add("--lr-base-size", type=int, default=256, metavar="N", help="pictures an update of --lr-base (256)")
    add("--lr-base-scale", default="", choices=("", "linear", "sqrt"), help="default: by the optimizer")
    add("--warmup-lr", type=float, metavar="X", help="first learning rate of the warm-up (1e-5)")
    add(
        "--warmup-lr-base",
        type=float,
        metavar="X",
        help="the same at --lr-base-size, scaled like --lr-base (ours)",
    )
    add("--min-lr", type=float, metavar="X", help="lowest learning rate (0)")
    add(
        "--min-lr-base",
        type=float,
        metavar="X",
        help="the same at --lr-base-size, scaled like --lr-base (ours)",
    )
    add("--epochs", type=int, default=300, metavar="N", help="epochs of the schedule (300)")
    add("--start-epoch", type=int, metavar="N", help="begin at this epoch, whatever a checkpoint says")
    add("--max-steps", type=int, metavar="N", help="stop after so many steps in all (ours)")
    add("--warmup-epochs", type=float, default=5, metavar="N", help="warm-up, part of the epochs (5)")
    switch(group, "warmup-prefix", "the warm-up comes before the epochs")
    add(
        "--cooldown-epochs",
        type=int,
        default=0,
        metavar="N",
        help="epochs at the lowest rate, at the end (0)",
    )
    add("--decay-milestones", type=int, nargs="+", default=[90, 180, 270], metavar="N", help="for multistep")
    add("--decay-epochs", type=float, default=90, metavar="N", help="epochs between steps (90)")
    add("--decay-rate", "--dr", type=float, default=0.1, metavar="X", help="factor of a step (0.1)")
    add("--patience-epochs", type=int, default=10, metavar="N", help="for plateau (10)")


def add_schedule_cycles(group: Group) -> None:
    add = group.add_argument
    add(
        "--lr-noise",
        type=float,
        nargs="+",
        metavar="X",
        help="noise on the rate: on and off, part of the epochs",
    )
    add("--lr-noise-pct", type=float, default=0.67, metavar="X", help="its limit (0.67)")
    add("--lr-noise-std", type=float, default=1.0, metavar="X", help="its deviation (1)")
    add(
        "--lr-cycle-mul",
        type=float,
        default=1.0,
        metavar="X",
        help="length of a cycle over the one before (1)",
    )
    add(
        "--lr-cycle-decay",
        type=float,
        default=0.5,
        metavar="X",
        help="height of a cycle over the one before (0.5)",
    )
    add("--lr-cycle-limit", type=int, default=1, metavar="N", help="cycles (1)")
    add("--lr-k-decay", type=float, default=1.0, metavar="X", help="k-decay of cosine and poly (1)")


def add_augmentation(group: Group) -> None:
    add = group.add_argument
    switch(group, "no-aug", "no augmentation in training")
    add("--train-crop-mode", metavar="MODE", help="rrc (default), rkrc, rkrr")
    add("--scale", type=float, nargs="+", default=[0.08, 1.0], metavar="X", help="area of the crop (0.08 1)")
    add(
        "--ratio",
        type=float,
        nargs="+",
        default=[3 / 4, 4 / 3],
        metavar="X",
        help="aspect of the crop (0.75 1.33)",
    )
    add("--hflip", type=float, default=0.5, metavar="P", help="mirrored left to right (0.5)")
    add("--vflip", type=float, default=0.0, metavar="P", help="mirrored top to bottom (0)")
    add("--color-jitter", type=float, default=0.4, metavar="X", help="strength of colour changes (0.4)")
    add("--color-jitter-prob", type=float, metavar="P", help="default: always")
    add("--grayscale-prob", type=float, default=0.0, metavar="P", help="without colour (0)")
    add("--gaussian-blur-prob", type=float, default=0.0, metavar="P", help="blurred (0)")
    add("--aa", metavar="POLICY", help="auto-augment policy such as rand-m9-mstd0.5-inc1")
    add(
        "--aug-repeats",
        type=float,
        default=0,
        metavar="N",
        help="copies of a picture in an epoch's order (0)",
    )
    add("--aug-splits", type=int, default=0, metavar="N", help="augmentation splits, 0 or at least 2 (0)")
    add("--reprob", type=float, default=0.0, metavar="P", help="random erasing (0)")
    add("--remode", default="pixel", choices=("pixel", "const", "rand"), help="what erases (pixel)")
    add("--recount", type=int, default=1, metavar="N", help="most erased patches (1)")
    switch(group, "resplit", "keep the first augmentation split from erasing")
    add("--train-interpolation", default="random", metavar="NAME", help="resizing in training (random)")


def add_objective(group: Group) -> None:
    add = group.add_argument
    switch(group, "jsd-loss", "Jensen-Shannon loss over the augmentation splits")
    switch(group, "bce-loss", "binary cross-entropy")
    switch(group, "bce-sum", "summed over classes")
    add("--bce-target-thresh", type=float, metavar="X", help="targets above it count as 1")
    add("--bce-pos-weight", type=float, metavar="X", help="weight of the positive targets")
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="mixup (0: none)")
    add("--cutmix", type=float, default=0.0, metavar="ALPHA", help="cutmix (0: none)")
    add("--cutmix-minmax", type=float, nargs=2, metavar=("MIN", "MAX"), help="cutmix by bounds of the side")
    add("--mixup-prob", type=float, default=1.0, metavar="P", help="batches that are mixed (1)")
    add("--mixup-switch-prob", type=float, default=0.5, metavar="P", help="cutmix rather than mixup (0.5)")
    add("--mixup-mode", default="batch", choices=("batch", "pair", "elem"), help="default batch")
    add(
        "--mixup-off-epoch", type=int, default=0, metavar="N", help="no mixing from this epoch on (0: always)"
    )
    add("--smoothing", type=float, default=0.1, metavar="X", help="label smoothing (0.1)")


def add_ema(group: Group) -> None:
    add = group.add_argument
    switch(group, "model-ema", "keep, validate and save a moving average of the weights")
    switch(group, "model-ema-force-cpu", "on the CPU; it is not validated then")
    add("--model-ema-decay", type=float, default=0.9998, metavar="X", help="its decay an update (0.9998)")
    add(
        "--model-ema-base-size", type=int, metavar="N",
        help="the decay is for N pictures an update: decay ** (pictures an update / N) is used (ours)",
    )  # fmt: skip
    switch(group, "model-ema-warmup", "the decay grows in the beginning")
