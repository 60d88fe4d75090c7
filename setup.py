"""Ostinato: a JAX/Flax research codebase for music generation."""

import pathlib

from setuptools import find_packages, setup

OURS = ('gansynth_jax', 'vqvae_jax', 'symbolic_jax', 'common')

setup(
    name='ostinato',
    version='0.1.0',
    description=__doc__.split(': ', 1)[1].strip(),
    long_description=pathlib.Path(__file__).with_name('README.md').read_text(
        encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    # `configs/` is installed inside `common`: a top-level package of that
    # name in site-packages would belong to nobody and everybody.
    packages=find_packages(include=[p + s for p in OURS for s in ('', '.*')])
    + ['common.configs'],
    package_dir={'common.configs': 'configs'},
    install_requires=[
        'jax>=0.10,<0.12',
        'flax>=0.12,<0.14',
        'optax>=0.2.8,<0.4',
        'orbax-checkpoint>=0.12,<0.13',
        # Builders reach into its internals to do without TensorFlow.
        'tensorflow-datasets>=4.9.10,<5',
        'array_record>=0.8.6',
        'grain>=0.2.18,<0.4',
        'numpy>=2.0',
        'scipy>=1.14',
        'librosa>=0.11',
        'soundfile>=0.13',
        'soxr>=0.5',
        'ml_collections>=1.1',
        'absl-py>=2.1',
        'tensorboardX>=2.6.4',
    ],
    extras_require={
        'cuda': ['jax[cuda13]'],
        'cuda12': ['jax[cuda12]'],  # For drivers before 580.
        'tpu': ['jax[tpu]'],
        'beam': ['apache-beam>=2.77'],
        'sweep': ['submitit>=1.5.3'],
        'wandb': ['wandb'],
        'dev': ['pytest>=8.3', 'pytest-xdist>=3.6', 'hypothesis>=6.100', 'ruff',
                'mido>=1.3', 'submitit>=1.5.3', 'setuptools>=70', 'wheel'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Multimedia :: Sound/Audio :: Sound Synthesis',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
