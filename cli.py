"""The command line: parse, call one function, print.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""

import functools
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from schemas.errors import EXIT_CRASH, PipelineError

if TYPE_CHECKING:
    from cache.storage import Storage
    from pipeline.encoder import Encoder
    from pipeline.run_classifier import RunClassifier
    from pipeline.text_table import TextTable
    from schemas.run import FitRuntime

logger = logging.getLogger("cli")

Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """Turns whatever goes wrong into one message and an exit code, in one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            raise _Failure(error) from error
        except KeyboardInterrupt as error:
            raise _Interrupted("interrupted; run the same command again") from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            _end_after_crash(error)


class _Failure(click.ClickException):
    """One of our errors on its way out."""

    def __init__(self, error: PipelineError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click has one for all
        self._error = error

    def show(self, file: Any = None) -> None:
        error = self._error
        values = {"kind": type(error).__name__, "where": error.where, "fix": error.fix}
        if not _logged(error.what, self.exit_code, **values):
            super().show(file)


class _Interrupted(click.ClickException):
    """Ctrl-C, at a place that makes no more of it."""

    exit_code = 128 + signal.SIGINT

    def show(self, file: Any = None) -> None:
        if not _logged(self.message, self.exit_code):
            super().show(file)


def _logged(what: str, exit_code: int, **values: Any) -> bool:
    """Log what went wrong where stderr is JSON; else return False."""
    from pipeline.logs import event, is_json

    if is_json():
        extra = event("error", what=what, exit_code=exit_code, **values)
        logger.error("Error: %s", what, extra=extra)
    return is_json()


def _end_after_crash(error: Exception) -> None:
    """Log what nobody foresaw, and end."""
    from pipeline.logs import event

    extra = event("crash", exit_code=EXIT_CRASH)
    logger.error("this is a mistake of ours, or the machine's", exc_info=error, extra=extra)
    sys.exit(EXIT_CRASH)


def _configure_logging(log_format: str = "text") -> None:
    from pipeline.logs import configure

    # What matters of other libraries comes as our own errors; a damaged picture has its row's.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    configure(log_format, level=logging.INFO if _is_first_process() else logging.WARNING)


def _example(text: str) -> str:
    return f"\b\nExample:\n  {text}"


def _with_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Add options to a command, in the order of its help."""
    for option in reversed(options):
        command = option(command)
    return command


def _workspace_option(default: str = "workspace") -> Callable[[Command], Command]:
    """Add --workspace; the command gets it absolute, and it is printed."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(workspace: str, log_format: str, **options: Any) -> Any:
            from cache.storage import open_storage
            from pipeline.logs import event

            _configure_logging(log_format)
            storage = open_storage(workspace)
            name = click.get_current_context().info_name
            what = event("command", command=name, workspace=storage.location)
            logger.info("workspace: %s", storage.location, extra=what)
            return command(workspace=storage, **options)

        options = [
            click.option(
                "--workspace",
                default=default,
                envvar="SHELFWISE_WORKSPACE",
                show_default=True,
                show_envvar=True,
                help="Folder of plan, cache and runs, or s3://bucket/prefix.",
            ),
            click.option(
                "--log-format",
                type=click.Choice(["text", "json"]),
                default="text",
                envvar="SHELFWISE_LOG_FORMAT",
                show_default=True,
                show_envvar=True,
                help="Of stderr: sentences, or one JSON object per event for log collectors.",
            ),
        ]
        return _with_options(wrapped, options)  # type: ignore[return-value]

    return decorate


def _say_next(workspace: "Storage", call: str) -> None:
    """Print the next command, with the workspace where it is not the default."""
    is_default = os.environ.get("SHELFWISE_WORKSPACE") or workspace.location == str(
        Path("workspace").resolve()
    )
    click.echo(
        f"next: python cli.py {call}" + ("" if is_default else f" --workspace {workspace.location}")
    )


def _device_option(command: Command) -> Command:
    option = click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
    )
    return option(command)


def _fit_options(command: Command) -> Command:
    """Add the options of a training run that fit and compare share."""
    options = [
        click.option("--epochs", default=12, show_default=True, help="Most passes over the items."),
        click.option(
            "--batch-size",
            type=int,
            help="Items a step.  [default: a 50th of the train items, 64 to 4096]",
        ),
        click.option("--lr", default=2e-3, show_default=True, help="Highest learning rate."),
        click.option(
            "--fusion",
            type=click.Choice(["attention", "concat", "gated"]),
            default="attention",
            show_default=True,
            help="How the two embeddings are joined.",
        ),
        click.option(
            "--modalities",
            type=click.Choice(["both", "image", "title"]),
            default="both",
            show_default=True,
            help="What the network may see.",
        ),
        click.option(
            "--weighting",
            type=click.Choice(["affinity", "controlled", "softmax"]),
            default="affinity",
            show_default=True,
            help="Approaches 4 and 5: how similarities become weights.",
        ),
        click.option(
            "--schedule",
            type=click.Choice(["linear", "geometric", "odds"]),
            default="odds",
            show_default=True,
            help="Approach 5: how targets harden.",
        ),
        click.option(
            "--temperature", type=float, help="Of the softmax weighting.  [default: solved]"
        ),
        click.option(
            "--beta",
            default=10.0,
            show_default=True,
            help="Approach taxonomy: how fast weights fall with the distance.",
        ),
        click.option(
            "--alpha", default=0.1, show_default=True, help="Smoothing mass off the true label."
        ),
        click.option(
            "--codes",
            default="embedding-512",
            show_default=True,
            help="Approach codes: which, as the command `codes` names them.",
        ),
        click.option(
            "--code-head",
            type=click.Choice(["alone", "beside"]),
            default="alone",
            show_default=True,
            help="Approach codes: bits in place of the classes' own logits, or beside them.",
        ),
        click.option(
            "--code-loss",
            type=click.Choice(["classes", "bits"]),
            default="classes",
            show_default=True,
            help="Approach codes: focal loss of the classes that codes decide, or cross-entropy of "
            "each bit.",
        ),
        click.option("--gamma", default=2.0, show_default=True, help="Focusing of the focal loss."),
        click.option("--kl-weight", default=1.0, show_default=True, help="Weight of the KL term."),
        click.option("--allow-partial", is_flag=True, help="Go on although shards are missing."),
        click.option(
            "--clean/--no-clean",
            default=True,
            show_default=True,
            help="Leave out what `clean` says, if it ran.",
        ),
        click.option(
            "--residency",
            type=click.Choice(["auto", "device", "host", "stream"]),
            default="auto",
            show_default=True,
            help="Where the embeddings are: the device's memory, the machine's, or disk; auto goes "
            "by free memory.",
        ),
        click.option(
            "--accumulate",
            default=1,
            show_default=True,
            type=click.IntRange(min=1),
            help="Compute each batch in so many parts: the same steps in less memory.",
        ),
        _device_option,
    ]
    return _with_options(command, options)


def _runtime(options: dict[str, Any]) -> "FitRuntime":
    """Take out of a command's options what says how a run is computed."""
    from schemas.run import FitRuntime

    names = ("device", "residency", "accumulate", "resume")
    return FitRuntime(**{name: options.pop(name) for name in names if name in options})


def _is_first_process() -> bool:
    """Say whether this is the one that reports, of those that torchrun started."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_example("python cli.py demo"),
)
def main() -> None:
    """Put every product on the right shelf; when it errs, on the shelf beside."""


@main.command(epilog=_example("python cli.py plan --items items.parquet --labels labels.csv"))
@click.option(
    "--items",
    help="Catalog: .parquet, .csv or WebDataset .tar, a folder of them, or a URL.",
)
@click.option("--labels", help="Labels: .csv or .parquet with label_id, name, path.")
@click.option(
    "--append",
    metavar="ITEMS",
    help="Change the plan: items that are new, or changed (their old rows are retired).",
)
@click.option(
    "--delete",
    metavar="IDS",
    help="Change the plan: retire items. A .csv or .parquet with item_id, or .txt with one a line.",
)
@click.option(
    "--relabel",
    metavar="FILE",
    help="Change the plan: other labels. A .csv or .parquet with item_id and label_id.",
)
@click.option(
    "--update-labels",
    metavar="LABELS",
    help="Change the plan: another labels file, in which labels are told by their label_id.",
)
@click.option(
    "--items-root",
    help="Folder of relative image paths.  [default: the folder of the items]",
)
@click.option(
    "--model",
    default="ViT-B-32",
    show_default=True,
    help="open_clip name, hf-hub:org/name, local-dir:folder or shelfwise-tiny.",
)
@click.option(
    "--pretrained",
    default=None,
    help="Tag, checkpoint file or `random`.  [default: openai for ViT-B-32]",
)
@click.option(
    "--label-text",
    default="name",
    show_default=True,
    help="What is embedded for a label: name, path or a template like 'a photo of a {name}'; "
    "several with ' | ' between are averaged.",
)
@click.option(
    "--decode",
    type=click.Choice(["scaled", "full"]),
    default="scaled",
    show_default=True,
    help="Let libjpeg scale large pictures down while decoding, or not.",
)
@click.option("--allow-duplicate-names", is_flag=True, help="Accept labels that share their text.")
@click.option(
    "--shard-rows",
    default=65536,
    show_default=True,
    type=click.IntRange(min=1),
    help="Items a shard.",
)
@click.option(
    "--chunk-rows",
    default=16384,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows a chunk file; divides --shard-rows.",
)
@click.option("--seed", default=0, show_default=True, help="Of the train/val/test split.")
@click.option("--limit", type=click.IntRange(min=1), help="Plan only the first so many items.")
@click.option("--force", is_flag=True, help="Replace a different plan.")
@_device_option
@_workspace_option()
def plan(
    workspace: "Storage",
    pretrained: str | None,
    model: str,
    append: str | None,
    delete: str | None,
    relabel: str | None,
    update_labels: str | None,
    **options: Any,
) -> None:
    """Freeze items, labels, splits and encoder into a plan, or change it.

    A change keeps every embedding that is still right: one of --append, --delete, --relabel and
    --update-labels at a time, without --items and --labels.
    """
    changes = {
        "append": append,
        "delete": delete,
        "relabel": relabel,
        "update_labels": update_labels,
    }
    chosen = {name: value for name, value in changes.items() if value is not None}
    if chosen:
        _change_plan(workspace, chosen, options)
        return
    if options["items"] is None or options["labels"] is None:
        raise click.UsageError(
            "give --items and --labels, or a change: --append, --delete, --relabel, --update-labels"
        )
    from pipeline.plan import make_plan

    if pretrained is None:
        pretrained = "openai" if model == "ViT-B-32" else ""
    signal.signal(signal.SIGTERM, _stop)
    make_plan(workspace, model=model, pretrained=pretrained, **options).table().print()
    _say_next(workspace, "embed --all")


def _change_plan(workspace: "Storage", chosen: dict[str, str], options: dict[str, Any]) -> None:
    """Make the one change that the options name; refuse others beside it."""
    change, file = next(iter(chosen.items()))
    if not file.strip():
        raise click.UsageError(f"--{change.replace('_', '-')} names no file")
    used = {"append": "items_root", "update_labels": "allow_duplicate_names"}.get(change)
    context = click.get_current_context()
    others = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        and name not in (change, used, "workspace")
    ]
    if others:
        raise click.UsageError(
            f"--{change.replace('_', '-')} changes the plan that is there: leave out "
            + ", ".join(others)
        )
    if change == "update_labels":
        from pipeline.label_changes import update_labels

        allow = options["allow_duplicate_names"]
        found = update_labels(workspace, file, allow_duplicate_names=allow)
    else:
        from pipeline import catalog_changes

        if change == "append":
            found = catalog_changes.append_items(workspace, file, options["items_root"])
        elif change == "delete":
            found = catalog_changes.delete_items(workspace, file)
        else:
            found = catalog_changes.relabel_items(workspace, file)
    found.table().print()
    if found.shards:
        _say_next(workspace, f"embed --shards {found.shards.start}-{found.shards.stop - 1}")
    elif change == "update_labels":
        _say_next(workspace, "embed --labels")
    else:
        _say_next(workspace, "status")


def _encoder_options(command: Command, batch_size: int = 256) -> Command:
    """Add the options of an encoder at work."""
    options = [
        click.option(
            "--batch-size",
            default=batch_size,
            show_default=True,
            type=click.IntRange(min=1),
            help="Items a forward pass.",
        ),
        click.option(
            "--workers",
            "num_workers",
            type=click.IntRange(min=0),
            help="Processes that decode pictures for an encoder; 0 decodes in its own.  "
            "[default: its share of the cores]",
        ),
        click.option(
            "--compute-dtype",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="In which the encoder runs; auto takes bfloat16 where the hardware has it.",
        ),
        _device_option,
    ]
    return _with_options(command, options)


def _embed_options(command: Command) -> Command:
    """Add the options that embed and verify share."""
    option = click.option(
        "--max-bad",
        default=0.05,
        show_default=True,
        type=click.FloatRange(0, 1),
        help="Share of a shard's rows that may lack an embedding.",
    )
    return option(_encoder_options(command))


@main.command(epilog=_example("python cli.py embed --shard 0"))
@click.option("--shard", type=int, help="Embed one shard.")
@click.option("--shards", help="Embed several shards, such as 0-15 or 0-3,7.")
@click.option("--all", "all_shards", is_flag=True, help="Embed every shard that is not done.")
@click.option("--labels", is_flag=True, help="Embed the labels (done with shard 0 anyway).")
@click.option("--redo", is_flag=True, help="Embed the shards again although they are done.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who gives out the shards: this process, or Ray to the nodes of its cluster.",
)
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="Engine ray: of the cluster; auto is the one that this node belongs to.  [default: a "
    "cluster of this machine alone]",
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    help="GPUs an encoder, with --all or engine ray: 0.25 puts four on one, which small models "
    "want, as one of them waits for its pictures; in a cluster, 0 puts one on each node's cores.  "
    "[default: 1 if there are any]",
)
@_embed_options
@_workspace_option()
def embed(
    workspace: "Storage",
    shard: int | None,
    shards: str | None,
    engine: str,
    address: str | None,
    gpus_per_worker: float | None,
    *,
    all_shards: bool,
    labels: bool,
    device: str,
    **options: Any,
) -> None:
    """Run the frozen encoders over shards of the catalog.

    With --all, several GPUs and no --device, a process for each shares the work.
    """
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    is_ray = engine == "ray"
    num_sharing = 1
    if not is_ray and gpus_per_worker is not None:
        if not (all_shards and device == "auto" and 0 < gpus_per_worker <= 1):
            raise click.UsageError(
                "without --engine ray, --gpus-per-worker is above 0, at most 1, and goes with "
                "--all and no --device"
            )
        num_sharing = int(1 / gpus_per_worker)
    if is_ray and shard is None and shards is None and not (labels or options["redo"]):
        all_shards = True
    chosen = _chosen_shards(shard, shards, frozen.num_shards if all_shards else None)
    if chosen is None and not labels:
        raise click.UsageError("say what to embed: --shard N, --shards A-B, --all or --labels")
    options["with_labels"] = labels
    if is_ray:
        from pipeline.ray_engine import embed_on_ray

        embed_on_ray(
            workspace,
            frozen,
            chosen or [],
            address=address,
            gpus_per_worker=gpus_per_worker,
            device=device,
            **options,
        ).table().print()
        _say_next(workspace, "neighbors")
        return
    from pipeline.device import all_devices
    from pipeline.embed import embed_on_devices

    devices = all_devices() if all_shards and device == "auto" else [device]
    if num_sharing > 1 and devices == ["cpu"]:
        raise click.UsageError("--gpus-per-worker: this machine has no GPU; leave it out")
    devices = (devices * num_sharing)[: max(1, len(chosen or []))]
    if len(devices) == 1:
        _embed(workspace.location, chosen or [], devices[0], **options)
    else:
        if options["num_workers"] is None:
            options["num_workers"] = max(1, _num_cores() // len(devices))
        signal.signal(signal.SIGTERM, _stop)
        log_format = click.get_current_context().params["log_format"]
        work = functools.partial(_embed_beside_others, log_format=log_format, **options)
        embed_on_devices(workspace, chosen or [], devices, work)
    _say_next(workspace, "neighbors")


def _embed(
    location: str,
    shards: Sequence[int],
    device: str,
    *,
    compute_dtype: str,
    num_workers: int | None,
    **options: Any,
) -> None:
    from cache.reader import read_plan
    from cache.storage import open_storage
    from pipeline.device import keep_freed_memory
    from pipeline.embed import embed as embed_shards
    from pipeline.encoder import find_weights, load_encoder

    keep_freed_memory()
    workspace = open_storage(location)
    frozen = read_plan(workspace)
    signal.signal(signal.SIGTERM, _stop)
    embed_shards(
        workspace,
        frozen,
        shards,
        lambda: load_encoder(find_weights(frozen.encoder), device, compute_dtype),
        num_workers=_num_cores() if num_workers is None else num_workers,
        **options,
    )


def _num_cores() -> int:
    """Return how many cores this process may use, in a job or a container too."""
    import joblib

    return joblib.cpu_count()


def _embed_beside_others(
    location: str, shards: Sequence[int], device: str, *, log_format: str, **options: Any
) -> None:
    """Run in a process of its own, one of several."""
    _configure_logging(log_format)
    try:
        _embed(location, shards, device, is_one_of_many=True, **options)
    except PipelineError as error:
        failure = _Failure(error)
        failure.show()
        sys.exit(failure.exit_code)
    except Exception as error:
        _end_after_crash(error)


def _stop(number: int, frame: object) -> None:
    """End at SIGTERM, as a preempted node gets it: whole chunks are kept, the lease is freed.

    Temporary files are deleted.
    """
    sys.exit(128 + number)


def _chosen_shards(
    shard: int | None, shards: str | None, num_all: int | None
) -> Sequence[int] | None:
    """Return the shards that the options name; at most one of them may be given."""
    given = [option for option in (shard, shards, num_all) if option is not None]
    if len(given) > 1:
        raise click.UsageError("give only one of --shard, --shards and --all")
    if shard is not None:
        return [shard]
    if num_all is not None:
        return range(num_all)
    if shards is None:
        return None
    chosen: list[int] = []
    for part in shards.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise click.BadParameter(
                f"{part!r} is neither a shard nor A-B, such as 0-15", param_hint="--shards"
            )
        chosen += range(int(first), int(last) + 1)
    return list(dict.fromkeys(chosen))


@main.command(epilog=_example("python cli.py status --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--missing",
    "only_missing",
    is_flag=True,
    help="Print only the shards to run, as a job array takes them (0-3,7).",
)
@click.option(
    "--array-size",
    type=click.IntRange(min=1),
    help="With --missing: in lines of an offset and indices below this size, to which the offset "
    "is to be added; for schedulers that limit the indices of an array.",
)
@_workspace_option()
def status(
    workspace: "Storage", *, as_json: bool, only_missing: bool, array_size: int | None
) -> None:
    """Show every shard's state, and what else is done."""
    from cache.reader import read_plan
    from pipeline.status import array_blocks, index_string, read_status

    if array_size is not None and not only_missing:
        raise click.UsageError("--array-size goes with --missing")
    found = read_status(workspace, read_plan(workspace))
    if array_size is not None:
        for offset, indices in array_blocks(found.missing(), array_size):
            click.echo(f"{offset} {index_string(indices)}")
    elif only_missing:
        click.echo(index_string(found.missing()))
    elif as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        found.table().print()


@main.command(epilog=_example("python cli.py verify --repair"))
@click.option("--shard", type=int, help="Look at one shard.")
@click.option("--shards", help="Look at several shards, such as 0-15 or 0-3,7.")
@click.option("--repair", is_flag=True, help="Embed again what is broken, and only that.")
@_embed_options
@_workspace_option()
def verify(
    workspace: "Storage",
    shard: int | None,
    shards: str | None,
    *,
    repair: bool,
    device: str,
    **options: Any,
) -> None:
    """Read every byte of the cache and compare it with commits and plan."""
    from cache.reader import read_plan
    from pipeline.verify import remove_orphans
    from pipeline.verify import verify as verify_shards

    frozen = read_plan(workspace)
    chosen = _chosen_shards(shard, shards, None)
    chosen = range(frozen.num_shards) if chosen is None else chosen
    found = verify_shards(workspace, frozen, chosen)
    found.table().print()
    if repair:
        remove_orphans(workspace, found)
        mended = [shard for shard in found.broken if shard not in found.imported]
        _embed(workspace.location, mended, device, with_labels=found.labels_broken, **options)
        found = verify_shards(workspace, frozen, chosen)
        found.table().print()
    found.check()


@main.command("import", epilog=_example("python cli.py import --from clip-retrieval-output"))
@click.option(
    "--from",
    "folder",
    help="Output of clip-retrieval: a folder with img_emb, text_emb and metadata.",
)
@click.option("--image-emb", help="Image embeddings: .npy or .parquet, or a folder of either.")
@click.option("--title-emb", help="Title embeddings, likewise.")
@click.option("--ids", help="Item ids of the rows: .npy, .txt, .csv or .parquet, or a folder.")
@click.option("--id-column", help="Of the ids.  [default: item_id, else key, else image_path]")
@click.option(
    "--image-column", help="Of the lists in --image-emb of Parquet.  [default: image_embedding]"
)
@click.option(
    "--title-column", help="Of the lists in --title-emb of Parquet.  [default: text_embedding]"
)
@click.option(
    "--max-bad",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of a shard's rows that may lack an embedding.",
)
@click.option("--trust", is_flag=True, help="Do not compare a sample with the plan's encoder.")
@click.option("--redo", is_flag=True, help="Import the shards again although they are done.")
@_device_option
@_workspace_option()
def import_(
    workspace: "Storage",
    folder: str | None,
    image_emb: str | None,
    title_emb: str | None,
    ids: str | None,
    id_column: str | None,
    image_column: str | None,
    title_column: str | None,
    *,
    device: str,
    **options: Any,
) -> None:
    """Take embeddings made elsewhere into the cache."""
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    files = (image_emb, title_emb, ids, image_column, title_column)
    if folder is not None and any(files):
        raise click.UsageError("--from names all files: give only --id-column with it")
    if folder is None and image_emb is None and title_emb is None:
        raise click.UsageError("say what to import: --from, --image-emb or --title-emb")
    from pipeline.embedding_files import open_files, open_folder
    from pipeline.import_embeddings import import_embeddings

    if folder is not None:
        source = open_folder(frozen, folder, id_column=id_column)
    else:
        source = open_files(
            frozen,
            image_emb=image_emb,
            title_emb=title_emb,
            ids=ids,
            id_column=id_column,
            image_column=image_column,
            title_column=title_column,
        )

    def get_encoder() -> "Encoder":
        from pipeline.encoder import load_encoder  # not needed with --trust

        return load_encoder(frozen.encoder, device)

    signal.signal(signal.SIGTERM, _stop)
    import_embeddings(workspace, frozen, source, get_encoder, **options)
    _say_next(workspace, "embed --labels")


@main.command(epilog=_example("python cli.py export --out embeddings"))
@click.option("--out", "folder", required=True, help="Folder to write to.")
@click.option(
    "--format",
    "dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Of the item embeddings; the cache has float16.",
)
@click.option(
    "--allow-partial", is_flag=True, help="Go on although shards or label embeddings are missing."
)
@click.option("--force", is_flag=True, help="Replace an earlier export in the folder.")
@_workspace_option()
def export(workspace: "Storage", folder: str, **options: Any) -> None:
    """Write the embeddings as .npy and Parquet, as clip-retrieval does."""
    from cache.reader import read_plan
    from pipeline.export_embeddings import export_embeddings

    export_embeddings(workspace, read_plan(workspace), folder, **options)
    click.echo(f"written: {Path(folder).resolve()}")


@main.command(epilog=_example('python cli.py neighbors --show "Cowboy Boots"'))
@click.option("--k", type=int, help="Neighbors a label.  [default: 20]")
@click.option(
    "--from",
    "source",
    help="Label embeddings made elsewhere: .npy in the order of labels.parquet, or .parquet with "
    "label_id and embedding.  [default: those that embed made]",
)
@click.option(
    "--edges",
    help="Curated neighbors: .csv or .parquet with label_id, neighbor_id and, if given, "
    "similarity.",
)
@click.option(
    "--edges-mode",
    type=click.Choice(["replace", "add"]),
    help="Whether they replace the computed neighbors of the labels that --edges names, or join "
    "them.  [default: replace]",
)
@click.option("--show", metavar="LABEL", help="Print a label's neighbors; builds nothing.")
@click.option("--stats", is_flag=True, help="Describe the graph and draw it; builds nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --stats: print JSON.")
@_workspace_option()
def neighbors(
    workspace: "Storage", show: str | None, *, stats: bool, as_json: bool, **options: Any
) -> None:
    """Link each label to the labels nearest to it."""
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    given = {name: value for name, value in options.items() if value is not None}
    reading = [name for name, is_on in (("--stats", stats), ("--show", show is not None)) if is_on]
    if reading and (given or len(reading) > 1):
        raise click.UsageError(
            f"{reading[0]} reads the graph as it is; give other options without it"
        )
    if as_json and not stats:
        raise click.UsageError("--json goes with --stats")
    if "edges_mode" in given and "edges" not in given:
        raise click.UsageError("--edges-mode says what becomes of --edges FILE: give both")
    from pipeline.neighbors import neighbors_table, write_neighbors

    if stats:
        _print_graph_stats(workspace, as_json=as_json)
    elif show is not None:
        neighbors_table(workspace, frozen, show).print()
    else:
        graph = write_neighbors(workspace, frozen, **given)
        least, most = graph.num_neighbors.min(), graph.num_neighbors.max()
        span = f"{least}" if least == most else f"{least} to {most}"
        click.echo(f"{graph.num_labels:,} labels, {span} neighbors each")
        _say_next(workspace, "fit --approach 5")


@main.command(epilog=_example("python cli.py codes --source both --bits 128"))
@click.option(
    "--source",
    type=click.Choice(["embedding", "taxonomy", "both"]),
    default="embedding",
    show_default=True,
    help="Bits from the label embeddings, one for each category above some labels, or both.",
)
@click.option(
    "--bits",
    "num_bits",
    type=int,
    help="From the embeddings; the taxonomy has as many as it has categories.  [default: 512]",
)
@click.option("--seed", type=int, help="Of the rotation that makes the bits.  [default: 0]")
@click.option(
    "--from",
    "embeddings",
    help="Label embeddings made elsewhere, as for neighbors.  [default: those that embed made]",
)
@_workspace_option()
def codes(workspace: "Storage", **given: Any) -> None:
    """Make binary codes of the labels, for fit --approach codes."""
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    from pipeline.codes import codes_table, make_codes

    name, made = make_codes(workspace, frozen, **given)
    codes_table(workspace, frozen, name, made).print()
    click.echo(f"written: {workspace.where(f'codes/{name}.parquet')}")
    options = "" if name == "embedding-512" else f" --codes {name}"
    options += " --code-head beside" if made.num_collisions else ""
    _say_next(workspace, f"fit --approach codes{options}")


def _print_graph_stats(workspace: "Storage", *, as_json: bool) -> None:
    from cache.reader import read_labels, read_plan
    from pipeline.graph_plot import plot_graph
    from pipeline.graph_stats import graph_stats
    from pipeline.label_graph import read_graph

    frozen = read_plan(workspace)
    graph = read_graph(workspace, frozen)
    found = graph_stats(graph, read_labels(workspace, frozen))
    workspace.write("report/neighbors.png", plot_graph(graph))
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        found.table().print()
    _say_written(workspace.where("report/neighbors.png"), as_json=as_json)


@main.command(epilog=_example("python cli.py clean --min-cosine 0.6"))
@click.option(
    "--min-cosine",
    default=0.45,
    show_default=True,
    help="Near duplicates: one of picture and title is the same, the other at least so alike "
    "(cosine after whitening).",
)
@click.option(
    "--mismatch-quantile",
    default=0.01,
    show_default=True,
    help="Share of the items to leave out because picture and title are least alike for their "
    "category.",
)
@click.option(
    "--min-image-title-cosine",
    type=float,
    help="Leave out what is below it, in any category, in place of the quantile.",
)
@click.option(
    "--check-pictures",
    is_flag=True,
    help="Find pictures that look like another category's too; reported, never left out.",
)
@click.option(
    "--check-labels",
    is_flag=True,
    help="Find suspicious labels too, by five networks; reported, never left out.",
)
@_device_option
@_workspace_option()
def clean(workspace: "Storage", device: str, **options: Any) -> None:
    """Find duplicates and mismatched pictures, which fit then leaves out."""
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    from pipeline.clean import clean as clean_catalog
    from schemas.clean import CleanConfig

    found = clean_catalog(workspace, frozen, CleanConfig(**options), device=device)
    for table in found.tables:
        table.print()
    click.echo(f"written: {', '.join(found.files)}")
    _say_next(workspace, "fit --approach 5")


@main.command(epilog=_example("python cli.py fit --approach 5"))
@click.option(
    "--approach",
    required=True,
    help="1, 1b, 2, 3, 4, 5, taxonomy, online, codes or codes-shuffled.",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, batch order and dropout.")
@click.option(
    "--resume", is_flag=True, help="Go on where the same run was stopped, if it was; else begin."
)
@_fit_options
@_workspace_option()
def fit(workspace: "Storage", **options: Any) -> None:
    """Train the fusion network on the cached embeddings.

    On several devices: torchrun --nproc-per-node=N cli.py fit --approach 5
    """
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    from pipeline.device import keep_freed_memory
    from pipeline.fit import fit as fit_run
    from schemas.run import FitConfig

    keep_freed_memory()
    runtime = _runtime(options)
    found = fit_run(workspace, frozen, FitConfig(**options), runtime=runtime)
    if _is_first_process():
        found.table().print()


def _print_found(
    tables: Sequence["TextTable"], record: Any, written: str, *, as_json: bool
) -> None:
    """Print tables, or the record as JSON; what was written where nothing is parsed."""
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        for table in tables:
            table.print()
    _say_written(written, as_json=as_json)


def _say_written(written: str, *, as_json: bool) -> None:
    """Print what was written; where stdout is JSON, log it."""
    from pipeline.logs import event

    if as_json:
        logger.info("written: %s", written, extra=event("written", files=written))
    else:
        click.echo(f"written: {written}")


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, not tables.")


_ensemble_option = click.option(
    "--ensemble",
    metavar="RUN",
    multiple=True,
    help="Average the probabilities with another run's; may be given several times.",
)
_calibrate_option = click.option(
    "--calibrate", is_flag=True, help="Use the temperature that fits val best."
)


def _exclude_true_option(command: Command) -> Command:
    option = click.option(
        "--exclude-true", is_flag=True, help="Do not count the true label in neighbors@5."
    )
    return option(command)


@main.command(
    epilog=_example("python cli.py evaluate a5-affinity-odds-s0 --ensemble a4-affinity-s0")
)
@click.argument("run")
@_ensemble_option
@click.option(
    "--decision",
    type=click.Choice(["argmax", "crm", "neighbors"]),
    default="argmax",
    show_default=True,
    help="Rank labels by probability, by expected distance in the category tree (crm), or put the "
    "answer's own neighbors behind it.",
)
@_calibrate_option
@click.option(
    "--split",
    type=click.Choice(["test", "val"]),
    default="test",
    show_default=True,
    help="Which items.",
)
@_exclude_true_option
@click.option("--allow-partial", is_flag=True, help="Go on although shards are missing.")
@_json_option
@_device_option
@_workspace_option()
def evaluate(
    workspace: "Storage",
    run: str,
    ensemble: tuple[str, ...],
    *,
    as_json: bool,
    device: str,
    **options: Any,
) -> None:
    """Look closely at a finished run: metrics, categories, confusions, what may be accepted.

    RUN is its name as `status` lists it, or enough of its beginning.
    """
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    from pipeline.evaluate import evaluate as evaluate_run
    from schemas.run import EvaluateConfig

    config = EvaluateConfig(runs=(run, *ensemble), **options)
    found = evaluate_run(workspace, frozen, config, device=device)
    _print_found(found.tables, found.record, found.folder, as_json=as_json)


def _answer_options(command: Command) -> Command:
    """Add the options that say how runs answer for new items."""
    options = [
        _ensemble_option,
        click.option(
            "--decision",
            type=click.Choice(["argmax", "crm"]),
            default="argmax",
            show_default=True,
            help="Rank labels by probability or by expected distance in the category tree (crm).",
        ),
        _calibrate_option,
        click.option(
            "--min-precision",
            type=float,
            metavar="SHARE",
            help="Abstain where the answer's probability is below the one above which this share "
            "of the answers on val is right, such as 0.97.",
        ),
        click.option(
            "--weights",
            help="The encoder's checkpoint.  [default: where it was planned, or as by name]",
        ),
    ]
    return _with_options(command, options)


def _open_runs(
    workspace: "Storage",
    runs: tuple[str, ...],
    weights: str | None,
    device: str,
    compute_dtype: str,
    **options: Any,
) -> tuple["RunClassifier", "Encoder"]:
    """Load runs and their encoder."""
    from pipeline.device import pick_device
    from pipeline.run_classifier import open_classifier
    from pipeline.runs import find_folder
    from schemas.run import PredictConfig

    config = PredictConfig(runs=runs, **options)
    folders = [find_folder(workspace, each) for each in config.runs]
    classifier = open_classifier(folders, config, pick_device(device))
    from pipeline.encoder import find_weights, load_encoder

    spec = find_weights(classifier.encoder, weights)
    return classifier, load_encoder(spec, device, compute_dtype)


@main.command(
    epilog=_example('python cli.py predict a5-affinity-odds-s0 --image boot.jpg --title "Boots"')
    + "\n  python cli.py predict a5-affinity-odds-s0 --items new.parquet --out answers.parquet"
)
@click.argument("run")
@click.option("--image", type=click.Path(), help="One item: its picture.")
@click.option("--title", help="One item: its title.")
@click.option(
    "--items",
    help="A table of items with item_id and title, image or image_path: as for plan, but no label.",
)
@click.option(
    "--items-root",
    help="Folder of relative image paths.  [default: the folder of the items]",
)
@click.option("--out", type=click.Path(), help="With --items: Parquet file to write.")
@_answer_options
@click.option("--top", "num_top", default=5, show_default=True, help="Labels given for an item.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
@_encoder_options
@_workspace_option()
def predict(
    workspace: "Storage",
    run: str,
    ensemble: tuple[str, ...],
    image: str | None,
    title: str | None,
    items: str | None,
    items_root: str | None,
    out: str | None,
    weights: str | None,
    *,
    as_json: bool,
    device: str,
    compute_dtype: str,
    batch_size: int,
    num_workers: int | None,
    **options: Any,
) -> None:
    """Answer for new items with a finished run: one item, or a table of them.

    RUN is its name as `status` lists it, enough of its beginning, or its folder, which may have
    been copied anywhere.
    """
    is_one = image is not None or title is not None
    if is_one == (items is not None):
        raise click.UsageError("say what to predict: --image and --title of one item, or --items")
    if (items is None) != (out is None):
        raise click.UsageError("--items and --out go together")
    if items is None and items_root is not None:
        raise click.UsageError("--items-root goes with --items")
    signal.signal(signal.SIGTERM, _stop)
    from dataclasses import asdict

    from pipeline.items import find_items
    from pipeline.predict import answer_table, predict_item, predict_items

    source = None if items is None else find_items(items, items_root, is_labeled=False)
    runs = (run, *ensemble)
    classifier, encoder = _open_runs(workspace, runs, weights, device, compute_dtype, **options)
    if source is None or out is None:
        found = predict_item(classifier, encoder, image=image, title=title)
        if as_json:
            click.echo(json.dumps(found.drop_columns(["row", "item_id"]).to_pylist()[0], indent=2))
        else:
            answer_table(found, classifier).print()
        return
    if num_workers is None:
        num_workers = _num_cores()
    written = predict_items(
        classifier, encoder, source, out, batch_size=batch_size, num_workers=num_workers
    )
    if as_json:
        click.echo(json.dumps(asdict(written), indent=2))
    else:
        written.table().print()
    _say_written(str(written.path), as_json=as_json)


_MEGABYTE = 1_000_000


@main.command(
    epilog=_example("python cli.py serve a5-affinity-odds-s0")
    + "\n  curl -F image=@boot.jpg -F title=Boots http://127.0.0.1:8080/v1/predict"
)
@click.argument("run")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8080, show_default=True, help="0 takes a free one.")
@_answer_options
@click.option(
    "--max-body", default=10, show_default=True, metavar="MB", help="Largest body of a request."
)
@click.option(
    "--max-under-way",
    default=256,
    show_default=True,
    metavar="MB",
    help="Most of all requests' bodies together; what comes beyond is told to come back.",
)
@click.option("--max-waiting", default=512, show_default=True, help="Most items in the queue.")
@click.option(
    "--lanes",
    "num_lanes",
    type=int,
    help="Batches under way at a time.  [default: 2 where a GPU embeds, else 1]",
)
@click.option(
    "--body-seconds", default=20.0, show_default=True, help="In which a body has to arrive."
)
@click.option(
    "--deadline-seconds",
    default=60.0,
    show_default=True,
    help="In which a request is answered or refused.",
)
@click.option(
    "--grace-seconds",
    default=20.0,
    show_default=True,
    help="In which requests under way may end after SIGTERM or Ctrl-C.",
)
@functools.partial(_encoder_options, batch_size=64)
@_workspace_option()
def serve(
    workspace: "Storage",
    run: str,
    ensemble: tuple[str, ...],
    weights: str | None,
    *,
    host: str,
    port: int,
    max_body: int,
    max_under_way: int,
    device: str,
    compute_dtype: str,
    num_workers: int | None,
    decision: str,
    calibrate: bool,
    min_precision: float | None,
    **limits: Any,
) -> None:
    """Answer over HTTP for new items with a finished run, until SIGTERM or Ctrl-C.

    RUN is its name as `status` lists it, enough of its beginning, or its folder. The page at the
    address answers for a picture and a title; docs/serve.md describes the rest.
    """
    from pipeline.serve_packages import check_packages
    from schemas.serve import MAX_TOP, ServeConfig

    check_packages()
    signal.signal(signal.SIGTERM, _stop)  # while it loads
    config = ServeConfig(
        host=host,
        port=port,
        num_workers=_num_cores() if num_workers is None else num_workers,
        max_body_bytes=max_body * _MEGABYTE,
        max_bytes_under_way=max_under_way * _MEGABYTE,
        **limits,
    )
    from pipeline.serve import listen
    from pipeline.serve import serve as answer_requests

    listener = listen(config)
    classifier, encoder = _open_runs(
        workspace,
        (run, *ensemble),
        weights,
        device,
        compute_dtype,
        decision=decision,
        calibrate=calibrate,
        min_precision=min_precision,
        num_top=MAX_TOP,
    )
    answer_requests(classifier, encoder, workspace, listener, config, decision=decision)


@main.command("export-model", epilog=_example("python cli.py export-model a5-affinity-odds-s0"))
@click.argument("run")
@click.option(
    "--out", type=click.Path(), help="Folder to write to.  [default: exported/ and the run's name]"
)
@_workspace_option()
def export_model(workspace: "Storage", run: str, out: str | None) -> None:
    """Write a run's network as ONNX, with its labels and a model card.

    RUN is its name as `status` lists it, enough of its beginning, or its folder.
    """
    from pipeline.runs import find_folder

    folder = find_folder(workspace, run)
    from pipeline.export_model import export_model as export

    found = export(folder, out or f"exported/{folder.name}")
    found.table().print()
    click.echo(f"written: {found.folder}")


@main.command(epilog=_example("python cli.py compare --seeds 3"))
@click.option("--approaches", default="1,2,3,4,5", show_default=True, help="Which, with commas.")
@click.option(
    "--seeds",
    "num_seeds",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Runs of each.",
)
@_exclude_true_option
@_json_option
@_fit_options
@_workspace_option()
def compare(
    workspace: "Storage",
    approaches: str,
    num_seeds: int,
    *,
    exclude_true: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit what is missing and print the paper's tables, with intervals, controls, references."""
    from cache.reader import read_plan

    frozen = read_plan(workspace)
    from pipeline.compare import compare as compare_runs
    from pipeline.device import keep_freed_memory
    from schemas.run import FitConfig

    keep_freed_memory()
    runtime = _runtime(options)
    names = [name.strip() for name in approaches.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--approaches names none; for example --approaches 1,4")
    found = compare_runs(
        workspace,
        frozen,
        approaches=names,
        num_seeds=num_seeds,
        config=FitConfig(approach="1", **options),
        runtime=runtime,
        exclude_true=exclude_true,
    )
    _print_found(found.tables, found.record, ", ".join(found.files), as_json=as_json)


@main.command(epilog=_example("python cli.py report"))
@click.option(
    "--most-mistakes",
    default=4000,
    show_default=True,
    type=click.IntRange(min=1),
    help="In the gallery; of more they are taken evenly.",
)
@_workspace_option()
def report(workspace: "Storage", most_mistakes: int) -> None:
    """Write a page to look at: what compare found, categories, mistakes with pictures, the data."""
    from pipeline.report import write_report

    found = write_report(workspace, most_mistakes=most_mistakes)
    click.echo(str(found))
    click.echo(f"written: {found.path}")


@main.command(epilog=_example("python cli.py synthetic --seeds 10"))
@click.option(
    "--out",
    "folder",
    type=click.Path(),
    default="synthetic",
    show_default=True,
    help="Folder to write to; runs that are there are reused.",
)
@click.option("--seeds", "num_seeds", default=10, show_default=True, help="Runs of each arm.")
@click.option(
    "--epochs", type=int, help="Passes over the images.  [default: as many as each set needs]"
)
@_json_option
def synthetic(folder: str, num_seeds: int, epochs: int | None, *, as_json: bool) -> None:
    """Do the paper's experiment on synthetic images: multi-class against binary codes.

    Needs no workspace and no data.
    """
    _configure_logging()
    from cache.storage import LocalStorage
    from pipeline.locations import local_path
    from pipeline.synthetic.synthetic import run_synthetic

    out = LocalStorage(local_path(folder))
    found = run_synthetic(out, num_seeds=num_seeds, epochs=epochs)
    _print_found(found.tables, found.record, ", ".join(found.files), as_json=as_json)


@main.command(epilog=_example("python cli.py demo"))
@click.option(
    "--items",
    "num_items",
    default=20_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Products to make.",
)
@_device_option
@_workspace_option("demo-workspace")
def demo(workspace: "Storage", num_items: int, device: str) -> None:
    """Run everything, offline, on a generated catalog with the bundled encoder."""
    from cache.storage import LocalStorage
    from pipeline.demo.demo import run_demo

    if not isinstance(workspace, LocalStorage):
        raise click.UsageError("the demo makes pictures too: give --workspace a folder")
    run_demo(workspace, num_items=num_items, device=device)


if __name__ == "__main__":
    main()
