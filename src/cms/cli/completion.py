"""`cms completion`: the scripts that make a shell complete commands, flags and session names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cms.cli import flags, io
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, MachineError, UsageError
from cms.json_output import json_object
from cms.units import meant

Shell = Literal["bash", "zsh", "fish"]

_BASH = r"""# cms: completion for bash. Made by `cms completion bash`.
_cms() {
    local value about current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS=$'\t' read -r value about; do
        case $value in
            @files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "${current#=}") ;;
            @dirs) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "${current#=}") ;;
            *) COMPREPLY+=("$value") ;;
        esac
    done < <(cms __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _cms cms
"""

_ZSH = r"""#compdef cms
# cms: completion for zsh. Made by `cms completion zsh`.
_cms() {
    local line
    local -a found
    for line in "${(@f)$(cms __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            @files) _files; return ;;
            @dirs) _files -/; return ;;
            *$'\t'*) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
            *) found+=("${line//:/\\:}") ;;
        esac
    done
    (( $#found )) && _describe cms found
}
if [[ "$funcstack[1]" = _cms ]]; then _cms "$@"; else compdef _cms cms; fi
"""

_FISH = r"""# cms: completion for fish. Made by `cms completion fish`.
function __cms_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (cms __complete $words[2..-1] 2>/dev/null)
        switch $line
            case @files @dirs
                __fish_complete_path (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c cms -f -a '(__cms_complete)'
"""

SCRIPTS: dict[Shell, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

#: Where each shell looks by itself, below HOME; (folder, variable that moves it, file).
_PLACES: dict[Shell, tuple[str, str, str]] = {
    "bash": (".local/share", "XDG_DATA_HOME", "bash-completion/completions/cms"),
    "zsh": (".zfunc", "", "_cms"),
    "fish": (".config", "XDG_CONFIG_HOME", "fish/completions/cms.fish"),
}


def completion(
    shell: Annotated[str | None, flags.word("bash, zsh or fish.")] = None,
    /,
    *,
    install: Annotated[
        bool, flags.switch("--install", "Install it where the shell looks, instead of printing it.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Print or install the completion script of a shell.

    The script asks cms on each TAB, so it never goes stale.

    Examples::

        source <(cms completion bash)
        cms completion zsh --install
    """
    if shell not in SCRIPTS:
        raise UsageError(
            "completion needs a shell" if shell is None else f"there is no completion for {shell!r}",
            hint=meant(shell or "", tuple(SCRIPTS)),
        )
    script = SCRIPTS[shell]
    if not install:
        if json:
            io.show_json({"shell": shell, "script": script})
        else:
            io.show(script)
        return ExitCode.COMPLETED
    path = place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from None
    then = "open a new shell"
    if shell == "zsh":
        then = f"have `fpath=({path.parent} $fpath); autoload -Uz compinit; compinit` in ~/.zshrc, and {then}"
    if json:
        io.show_json(json_object(shell=shell, path=str(path), next=then))
    else:
        io.show_lines([f"written: {path}", f"now {then}"])
    return ExitCode.COMPLETED


def place(shell: Shell) -> Path:
    """Where the script belongs for this user."""
    folder, variable, name = _PLACES[shell]
    moved = os.environ.get(variable, "") if variable else ""
    return (Path(moved) if moved else Path.home() / folder) / name
