"""The tables behind the protected paths: what is protected by default, and what the environment moves.

Two kinds of files are nobody's task to write: credentials, and what runs by itself (at login, at the start of
a tool, by git). A tool's own state, which it writes whenever it is used, is not listed: each use would trip
the tripwire. How patterns are read: `session.path_rules`.
"""

from __future__ import annotations

from typing import Final

_CREDENTIALS: Final = (
    "~/.ssh", "~/.gnupg", "~/.password-store", "~/.local/share/keyrings", "~/Library/Keychains",
    "~/.netrc", "~/.authinfo",
    "~/.authinfo.gpg", "~/.git-credentials", "~/.vault-token", "~/.config/sops", "~/.config/op",
    "id_rsa", "id_ed25519", "id_ecdsa", "id_dsa", ".env", ".env.*",
    # clouds
    "~/.aws", "~/.azure", "~/.config/gcloud", "~/.boto", "~/.s3cfg", "~/.oci", "~/.config/doctl", "~/.fly",
    "~/.config/rclone", "~/.pulumi/credentials.json", "~/.databrickscfg", "~/.snowflake", "~/.kaggle",
    "~/.cache/huggingface/token", "~/.terraformrc", "~/.terraform.d/credentials.tfrc.json",
    "~/.terraform.d/plugins",
    # containers
    "~/.kube", "~/.docker", "~/.config/containers", "~/.config/helm", "~/.local/share/helm/plugins",
    "~/.config/k9s",
    # hosts of code, registries of packages (most of these files can name programs as well)
    "~/.config/gh", "~/.config/hub", "~/.config/glab-cli", "~/.npmrc", "~/.yarnrc", "~/.yarnrc.yml",
    "~/.bunfig.toml", "~/.pypirc", "~/.pip", "~/.config/pip", "~/.config/uv", "~/.local/share/uv/credentials",
    "~/.config/pypoetry", "~/.condarc", "~/.cargo/credentials", "~/.cargo/credentials.toml",
    "~/.cargo/config", "~/.cargo/config.toml", "~/.gradle/gradle.properties", "~/.gradle/init.gradle",
    "~/.gradle/init.d", "~/.m2/settings.xml", "~/.m2/settings-security.xml", "~/.mavenrc", "~/.nuget/NuGet",
    "~/.composer/auth.json", "~/.config/composer/auth.json", "~/.gem/credentials", "~/.gemrc",
    "~/.bundle/config",
    # databases
    "~/.pgpass", "~/.pg_service.conf", "~/.my.cnf", "~/.mylogin.cnf",
)  # fmt: skip

#: What runs when its user logs in or opens a shell. The home is the one that the system knows him by.
AT_LOGIN: Final = (
    "~/.bashrc", "~/.bash_profile", "~/.bash_login", "~/.bash_logout", "~/.bash_aliases",
    "~/.bash_completion", "~/.profile", "~/.zshrc", "~/.zshenv", "~/.zprofile", "~/.zlogin", "~/.zlogout",
    "~/.kshrc", "~/.mkshrc", "~/.cshrc", "~/.tcshrc", "~/.login", "~/.logout", "~/.xonshrc", "~/.inputrc",
    "~/.config/fish", "~/.config/zsh", "~/.config/nushell", "~/.config/xonsh", "~/.config/elvish",
    "~/.config/powershell", "~/.local/share/fish/vendor_conf.d", "~/.local/share/bash-completion",
    "~/.pam_environment", "~/.config/environment.d", "~/.xprofile", "~/.xinitrc", "~/.xserverrc",
    "~/.xsession", "~/.xsessionrc", "~/.Xclients", "~/.config/autostart", "~/.config/autostart-scripts",
    "~/.config/plasma-workspace", "~/.config/openbox", "~/.config/lxsession", "~/.config/i3", "~/.i3",
    "~/.config/sway", "~/.config/hypr", "~/.config/labwc", "~/.config/systemd", "~/.local/share/systemd/user",
    "~/.config/upstart", "~/.local/share/dbus-1/services", "~/.forward", "~/.procmailrc",
    "~/Library/LaunchAgents",
)  # fmt: skip

#: What a tool runs when it starts.
_AT_START: Final = (
    "~/.config/direnv", "~/.direnvrc", "~/.tmux.conf", "~/.config/tmux", "~/.screenrc", "~/.vimrc", "~/.exrc",
    "~/.config/nvim/init.lua", "~/.config/nvim/init.vim", "~/.emacs", "~/.emacs.d/init.el", "~/.gdbinit",
    "~/.config/gdb", "~/.lldbinit", "~/.psqlrc", "~/.sqliterc", "~/.Rprofile", "~/.Renviron", "~/.irbrc",
    "~/.pryrc", "~/.ipython/profile_default/startup", "~/.jupyter", "~/.curlrc", "~/.config/curlrc",
    "~/.wgetrc", "~/.mailcap", "~/.hgrc", "~/.config/hg", "~/.config/jj", "~/.jjconfig.toml", "~/.subversion",
)  # fmt: skip

#: What git reads its settings from, and executes. What these name besides: `protection.git_places`.
_GIT: Final = (
    "~/.gitconfig", "~/.config/git", ".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir",
    ".git/info/attributes", ".git/modules/**/config", ".git/modules/**/hooks", ".git/modules/**/commondir",
    ".git/modules/**/config.worktree", ".git/modules/**/info/attributes",
)  # fmt: skip

#: What nobody's task needs to write. `--allow-write` takes patterns out.
DEFAULT_PROTECTED: Final = (
    *_CREDENTIALS, *AT_LOGIN, *_AT_START, *_GIT,
    # Claude's own settings: they can run commands and grant permissions
    "~/.claude", "~/.claude.json", ".claude/settings.json", ".claude/settings.local.json", ".claude/hooks",
    ".mcp.json",
    # our own state
    "~/.claude-multi-session",
    # the system
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys",
    "/usr", "/var/lib", "/var/spool", "/System", "/Library",
)  # fmt: skip

#: By the pattern above: the templates that people commit, and the devices that take anything. Each stands for
#: one file: nothing below it, and nothing in a place that is protected as a whole.
DEFAULT_EXCEPTIONS: Final[dict[str, tuple[str, ...]]] = {
    ".env.*": (".env.example", ".env.sample", ".env.template", ".env.dist", ".env.defaults"),
    "/dev": ("/dev/null", "/dev/stdout", "/dev/stderr"),
}

#: Variables that say where a tool's files are, and the place that they stand for. What is protected of that
#: place is protected where the variable says that it is. `NAME/x`: x in the folder that NAME names. Where a
#: tool has no usual place, one of the same kind.
MOVES: Final = (
    ("XDG_CONFIG_HOME", "~/.config"), ("XDG_CONFIG_DIRS", "~/.config"), ("XDG_DATA_HOME", "~/.local/share"),
    ("XDG_DATA_DIRS", "~/.local/share"), ("XDG_STATE_HOME", "~/.local/state"), ("XDG_CACHE_HOME", "~/.cache"),
    # keys
    ("GNUPGHOME", "~/.gnupg"), ("PASSWORD_STORE_DIR", "~/.password-store"),
    ("PASSWORD_STORE_EXTENSIONS_DIR", "~/.password-store/.extensions"), ("NETRC", "~/.netrc"),
    ("SOPS_AGE_KEY_FILE", "~/.config/sops/age/keys.txt"), ("OP_CONFIG_DIR", "~/.config/op"),
    ("SSH_ASKPASS", "~/.ssh/askpass"), ("SUDO_ASKPASS", "~/.ssh/askpass"), ("GIT_ASKPASS", "~/.ssh/askpass"),
    # clouds
    ("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CREDENTIAL_FILE", "~/.aws/credentials"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "~/.aws/token"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "~/.aws/token"),
    ("AWS_LOGIN_CACHE_DIRECTORY", "~/.aws/login/cache"), ("BOTO_CONFIG", "~/.boto"), ("BOTO_PATH", "~/.boto"),
    ("S3CMD_CONFIG", "~/.s3cfg"), ("AZURE_CONFIG_DIR", "~/.azure"),
    ("AZURE_EXTENSION_DIR", "~/.azure/cliextensions"), ("AZURE_FEDERATED_TOKEN_FILE", "~/.azure/token"),
    ("AZURE_CLIENT_CERTIFICATE_PATH", "~/.azure/certificate"), ("AZURE_AUTH_LOCATION", "~/.azure/auth"),
    ("CLOUDSDK_CONFIG", "~/.config/gcloud"),
    ("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", "~/.config/gcloud/credentials"),
    ("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", "~/.config/gcloud/token"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
    ("OCI_CLI_CONFIG_FILE", "~/.oci/config"), ("OCI_CLI_RC_FILE", "~/.oci/oci_cli_rc"),
    ("DIGITALOCEAN_CONFIG", "~/.config/doctl/config.yaml"), ("FLY_CONFIG_DIR", "~/.fly"),
    ("RCLONE_CONFIG", "~/.config/rclone/rclone.conf"), ("PULUMI_HOME", "~/.pulumi"),
    ("PULUMI_CREDENTIALS_PATH/credentials.json", "~/.pulumi/credentials.json"),
    ("DATABRICKS_CONFIG_FILE", "~/.databrickscfg"), ("SNOWFLAKE_HOME", "~/.snowflake"),
    ("KAGGLE_CONFIG_DIR", "~/.kaggle"), ("HF_HOME", "~/.cache/huggingface"),
    ("HF_TOKEN_PATH", "~/.cache/huggingface/token"), ("TF_CLI_CONFIG_FILE", "~/.terraformrc"),
    ("TERRAFORM_CONFIG", "~/.terraformrc"),
    # containers
    ("KUBECONFIG", "~/.kube/config"), ("KUBERC", "~/.kube/kuberc"), ("DOCKER_CONFIG", "~/.docker"),
    ("DOCKER_CERT_PATH", "~/.docker/certs"), ("BUILDX_CONFIG", "~/.docker/buildx"),
    ("REGISTRY_AUTH_FILE", "~/.config/containers/auth.json"),
    ("CONTAINERS_CONF", "~/.config/containers/containers.conf"),
    ("CONTAINERS_CONF_OVERRIDE", "~/.config/containers/containers.conf"),
    ("CONTAINERS_REGISTRIES_CONF", "~/.config/containers/registries.conf"),
    ("CONTAINERS_STORAGE_CONF", "~/.config/containers/storage.conf"), ("HELM_CONFIG_HOME", "~/.config/helm"),
    ("HELM_DATA_HOME", "~/.local/share/helm"), ("HELM_PLUGINS", "~/.local/share/helm/plugins"),
    ("HELM_REGISTRY_CONFIG", "~/.config/helm/registry/config.json"),
    ("HELM_REPOSITORY_CONFIG", "~/.config/helm/repositories.yaml"), ("HELM_KEYRING", "~/.gnupg/pubring.gpg"),
    ("K9S_CONFIG_DIR", "~/.config/k9s"),
    # hosts of code, registries of packages
    ("GH_CONFIG_DIR", "~/.config/gh"), ("HUB_CONFIG", "~/.config/hub"),
    ("GLAB_CONFIG_DIR", "~/.config/glab-cli"), ("NPM_CONFIG_USERCONFIG", "~/.npmrc"),
    ("npm_config_userconfig", "~/.npmrc"), ("NPM_CONFIG_GLOBALCONFIG", "~/.npmrc"),
    ("npm_config_globalconfig", "~/.npmrc"), ("PYPIRC", "~/.pypirc"),
    ("PIP_CONFIG_FILE", "~/.config/pip/pip.conf"), ("UV_CONFIG_FILE", "~/.config/uv/uv.toml"),
    ("UV_CREDENTIALS_DIR", "~/.local/share/uv/credentials"), ("POETRY_CONFIG_DIR", "~/.config/pypoetry"),
    ("CONDARC", "~/.condarc"), ("MAMBARC", "~/.condarc"), ("CARGO_HOME", "~/.cargo"),
    ("GRADLE_USER_HOME", "~/.gradle"), ("MAVEN_USER_HOME", "~/.m2"), ("MAVEN_CONFIG", "~/.m2"),
    ("COMPOSER_HOME", "~/.composer"), ("BUNDLE_USER_HOME", "~/.bundle"),
    ("BUNDLE_USER_CONFIG", "~/.bundle/config"), ("BUNDLE_APP_CONFIG", "~/.bundle"), ("GEMRC", "~/.gemrc"),
    # databases
    ("PGPASSFILE", "~/.pgpass"), ("PGSERVICEFILE", "~/.pg_service.conf"), ("PSQLRC", "~/.psqlrc"),
    ("PGSSLKEY", "~/.pgpass"), ("MYSQL_HOME/my.cnf", "~/.my.cnf"), ("MARIADB_HOME/my.cnf", "~/.my.cnf"),
    ("MYSQL_TEST_LOGIN_FILE", "~/.mylogin.cnf"),
    # login and shells
    ("ZDOTDIR/.zshenv", "~/.zshenv"), ("ZDOTDIR/.zprofile", "~/.zprofile"), ("ZDOTDIR/.zshrc", "~/.zshrc"),
    ("ZDOTDIR/.zlogin", "~/.zlogin"), ("ZDOTDIR/.zlogout", "~/.zlogout"), ("BASH_ENV", "~/.bashrc"),
    ("ENV", "~/.profile"), ("INPUTRC", "~/.inputrc"), ("XONSHRC", "~/.xonshrc"),
    ("BASH_COMPLETION_USER_FILE", "~/.bash_completion"),
    ("BASH_COMPLETION_USER_DIR", "~/.local/share/bash-completion"), ("XINITRC", "~/.xinitrc"),
    ("XSERVERRC", "~/.xserverrc"), ("SYSTEMD_UNIT_PATH", "~/.config/systemd/user"),
    ("LD_PRELOAD", "~/.profile"), ("LD_AUDIT", "~/.profile"), ("DYLD_INSERT_LIBRARIES", "~/.profile"),
    # programs
    ("EDITOR", "~/.profile"), ("VISUAL", "~/.profile"), ("PAGER", "~/.profile"), ("BROWSER", "~/.profile"),
    ("PYTHONSTARTUP", "~/.profile"), ("IPYTHONDIR", "~/.ipython"), ("JUPYTER_CONFIG_DIR", "~/.jupyter"),
    ("JUPYTER_CONFIG_PATH", "~/.jupyter"), ("R_PROFILE_USER", "~/.Rprofile"), ("R_PROFILE", "~/.Rprofile"),
    ("R_ENVIRON_USER", "~/.Renviron"), ("R_ENVIRON", "~/.Renviron"), ("IRBRC", "~/.irbrc"),
    ("PRYRC", "~/.pryrc"), ("SCREENRC", "~/.screenrc"), ("DIRENV_CONFIG", "~/.config/direnv"),
    ("CURL_HOME/.curlrc", "~/.curlrc"), ("WGETRC", "~/.wgetrc"), ("MAILCAPS", "~/.mailcap"),
    # git and its like
    ("GIT_CONFIG_GLOBAL", "~/.gitconfig"), ("GIT_CONFIG_SYSTEM", "~/.gitconfig"),
    ("GIT_CONFIG", "~/.gitconfig"), ("GIT_TEMPLATE_DIR", "~/.config/git/template"),
    ("GIT_EXEC_PATH", "~/.config/git/exec"), ("GIT_SSH", "~/.ssh/program"), ("HGRCPATH", "~/.hgrc"),
    ("JJ_CONFIG", "~/.jjconfig.toml"),
    # Claude's and ours
    ("CLAUDE_CONFIG_DIR", "~/.claude"), ("CMS_HOME", "~/.claude-multi-session"),
)  # fmt: skip

#: Those whose value is several paths, with colons between.
LISTS: Final = frozenset((
    "XDG_CONFIG_DIRS", "XDG_DATA_DIRS", "KUBECONFIG", "BOTO_PATH", "GEMRC", "XONSHRC", "SYSTEMD_UNIT_PATH",
    "DYLD_INSERT_LIBRARIES", "JUPYTER_CONFIG_PATH", "MAILCAPS", "HGRCPATH", "JJ_CONFIG",
))  # fmt: skip
#: Those whose value is a command: the words of it that have a slash.
COMMANDS: Final = frozenset((
    "EDITOR", "VISUAL", "PAGER", "BROWSER", "GIT_SSH", "SSH_ASKPASS", "SUDO_ASKPASS", "GIT_ASKPASS",
    "LD_PRELOAD", "LD_AUDIT", "MAVEN_CONFIG",
))  # fmt: skip
